/* The command line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pipeline/options.h"

enum { ARGUMENTS_MAX = 16 };

/* Parse a line of words separated by single spaces; `line` holds the strings afterwards, and the
 * options their places until the next call. */
static enum status parse(char *line, struct options *options, struct error *error) {
    static char program[] = "fptq-pipeline", *arguments[ARGUMENTS_MAX + 1];
    int count = 0;
    arguments[count++] = program;
    for (char *word = strtok(line, " "); word && count < ARGUMENTS_MAX; word = strtok(NULL, " "))
        arguments[count++] = word;
    arguments[count] = NULL;
    return options_parse(options, count, arguments, error);
}

#define ACCEPTED(words)                                                                            \
    char line[] = words;                                                                           \
    struct options options;                                                                        \
    struct error error = {0};                                                                      \
    if (parse(line, &options, &error) != STATUS_OK)                                                \
    fail_msg("%s: %s", words, error.message)

static void refused(const char *words, const char *message) {
    char line[200];
    struct options options;
    struct error error = {0};
    strncpy(line, words, sizeof line - 1);
    line[sizeof line - 1] = '\0';
    assert_int_equal(parse(line, &options, &error), STATUS_USAGE);
    assert_string_equal(error.message, message);
    assert_null(options.overrides);
}

static void test_plan_options(void **state) {
    (void)state;
    ACCEPTED("plan --measure --simulate 4096 --json p.json a.toml");
    assert_int_equal(options.verb, VERB_PLAN);
    assert_true(options.measure);
    assert_int_equal(options.simulate, 4096);
    assert_string_equal(options.argument, "a.toml");
    options_free(&options);
    refused("plan --simulate 12x a.toml",
            "--simulate needs a number of ranks from 1 to 65536, not \"12x\"");
    refused("eval --simulate 4 a.toml", "eval takes no --simulate");
}

static void test_no_verb(void **state) {
    (void)state;
    ACCEPTED("a.toml");
    assert_int_equal(options.verb, VERB_QUANTIZE);
    assert_false(options.verb_given);
    assert_string_equal(options.argument, "a.toml");
    assert_int_equal(options.level, LOG_NORMAL);
    assert_int_equal(options.override_count, 0);
    assert_null(options.json);
    assert_false(options.restart);
    options_free(&options);
}

static void test_all_options(void **state) {
    (void)state;
    ACCEPTED("--set a.b=1 a.toml -v --set c.d=2 --json r.json --restart");
    assert_string_equal(options.argument, "a.toml");
    assert_int_equal(options.override_count, 2);
    assert_string_equal(options.overrides[0], "a.b=1");
    assert_string_equal(options.overrides[1], "c.d=2");
    assert_string_equal(options.json, "r.json");
    assert_int_equal(options.level, LOG_VERBOSE);
    assert_true(options.restart);
    options_free(&options);
}

static void test_verbs(void **state) {
    (void)state;
    {
        ACCEPTED("-q plan a.toml");
        assert_int_equal(options.verb, VERB_PLAN);
        assert_int_equal(options.level, LOG_QUIET);
        assert_string_equal(options.argument, "a.toml");
        options_free(&options);
    }
    {
        ACCEPTED("verify x.h5");
        assert_int_equal(options.verb, VERB_VERIFY);
        options_free(&options);
    }
    {
        ACCEPTED("report a.json -q b.json");
        assert_int_equal(options.verb, VERB_REPORT);
        assert_int_equal(options.argument_count, 2);
        assert_string_equal(options.arguments[0], "a.json");
        assert_string_equal(options.arguments[1], "b.json");
        options_free(&options);
    }
    {
        ACCEPTED("quantize plan"); /* a file of a verb's name */
        assert_int_equal(options.verb, VERB_QUANTIZE);
        assert_string_equal(options.argument, "plan");
        options_free(&options);
    }
}

static void test_help(void **state) {
    (void)state;
    {
        ACCEPTED("export --help"); /* helps even with what is not there yet */
        assert_true(options.help);
        assert_int_equal(options.verb, VERB_EXPORT);
        options_free(&options);
    }
    {
        ACCEPTED("--version");
        assert_true(options.version);
        options_free(&options);
    }
}

static void test_refusals(void **state) {
    (void)state;
    refused("", "quantize needs a CONFIG.toml");
    refused("plan", "plan needs a CONFIG.toml");
    refused("verify", "verify needs a CHECKPOINT.h5");
    refused("a.toml b.toml", "quantize takes one CONFIG.toml, but 2 arguments are given");
    refused("--sett a=1 a.toml", "there is no option --sett");
    refused("-vz a.toml", "there is no option -z");
    refused("--quiet=1 a.toml", "there is no option --quiet=1");
    refused("a.toml --set", "--set needs a value");
    refused("a.toml --json", "--json needs a value");
    refused("plan --restart a.toml", "plan takes no --restart");
    refused("verify --set a.b=1 x.h5", "verify takes no --set");
    refused("verify --restart a.h5", "verify takes no --restart");
    refused("export x.h5", "the verb export is not available in this version");
    refused("report", "report needs a RESULTS.json");
    refused("report a.json --json b.json", "report takes no --json");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan_options), cmocka_unit_test(test_no_verb),
        cmocka_unit_test(test_all_options),  cmocka_unit_test(test_verbs),
        cmocka_unit_test(test_help),         cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
