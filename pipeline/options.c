#include "pipeline/options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/config.h"

struct verb_rule {
    const char *name;
    const char *argument; /* what it works on */
    bool available, many; /* many: one argument or more */
    const char *options;  /* letters of verb-dependent options it takes */
    const char *summary;
};

static const struct verb_rule verbs[VERB_COUNT] = {
    [VERB_QUANTIZE] = {"quantize", "CONFIG.toml", true, false, "sjr",
                       "calibrate, quantize and write the checkpoint (when no verb is given)"},
    [VERB_PLAN] = {"plan", "CONFIG.toml", true, false, "sjmn",
                   "show stages, memory, disk, communication and time; reads headers alone"},
    [VERB_EVAL] = {"eval", "CONFIG.toml", true, false, "sjr",
                   "measure the model on the sets of [evaluation]"},
    [VERB_VERIFY] = {"verify", "CHECKPOINT.h5", true, false, "",
                     "compare every dataset of a checkpoint with its checksum"},
    [VERB_EXPORT] = {"export", "CHECKPOINT.h5", false, false, "",
                     "write a checkpoint in another format"},
    [VERB_REPORT] = {"report", "RESULTS.json", true, true, "",
                     "set files of eval --json side by side, as Markdown tables"},
};

/* Options without a short form are this much above their letter. */
enum { LONG_ONLY = 256 };
/* Letters of the options that some verbs take and others do not. */
static const char verb_letters[] = "sjrmn";
enum { SIMULATED_MAX = 65536 };

static const struct option long_options[] = {
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, LONG_ONLY + 'V'},
    {"quiet", no_argument, NULL, 'q'},
    {"verbose", no_argument, NULL, 'v'},
    {"set", required_argument, NULL, LONG_ONLY + 's'},
    {"json", required_argument, NULL, LONG_ONLY + 'j'},
    {"restart", no_argument, NULL, LONG_ONLY + 'r'},
    {"measure", no_argument, NULL, LONG_ONLY + 'm'},
    {"simulate", required_argument, NULL, LONG_ONLY + 'n'},
    {NULL, 0, NULL, 0},
};

static const char *long_name(int letter) {
    for (const struct option *option = long_options; option->name; option++)
        if (option->val % LONG_ONLY == letter)
            return option->name;
    return "";
}

static enum status read_ranks(struct options *options, const char *text, struct error *error) {
    char *end;
    const long ranks = strtol(text, &end, 10);
    if (end == text || *end || ranks < 1 || ranks > SIMULATED_MAX)
        return error_set(error, STATUS_USAGE,
                         "--simulate needs a number of ranks from 1 to %d, "
                         "not \"%s\"",
                         SIMULATED_MAX, text);
    options->simulate = (int)ranks;
    return STATUS_OK;
}

/* `seen`: letters of the verb-dependent options that were given. */
static enum status read_options(struct options *options, int argc, char **argv, char *seen,
                                struct error *error) {
    int found;
    opterr = 0;
    optind = 0; /* glibc: start anew, so that this can be called again */
    while ((found = getopt_long(argc, argv, ":hqv", long_options, NULL)) != -1) {
        const int letter = found % LONG_ONLY;
        switch (letter) {
        case 'h':
            options->help = true;
            break;
        case 'V':
            options->version = true;
            break;
        case 'q':
            options->level = LOG_QUIET;
            break;
        case 'v':
            options->level = LOG_VERBOSE;
            break;
        case 's':
            options->overrides[options->override_count++] = optarg;
            break;
        case 'j':
            options->json = optarg;
            break;
        case 'r':
            options->restart = true;
            break;
        case 'm':
            options->measure = true;
            break;
        case 'n':
            if (read_ranks(options, optarg, error))
                return STATUS_USAGE;
            break;
        case ':':
            return error_set(error, STATUS_USAGE, "%s needs a value", argv[optind - 1]);
        default:
            if (optopt > 0 && optopt < LONG_ONLY && !strchr("hqv", optopt))
                return error_set(error, STATUS_USAGE, "there is no option -%c", optopt);
            return error_set(error, STATUS_USAGE, "there is no option %s", argv[optind - 1]);
        }
        if (strchr(verb_letters, letter) && !strchr(seen, letter))
            seen[strlen(seen)] = (char)letter;
    }
    return STATUS_OK;
}

static enum status check_verb(const struct options *options, int left, const char *seen,
                              struct error *error) {
    const struct verb_rule *rule = &verbs[options->verb];
    if (!rule->available)
        return error_set(error, STATUS_USAGE, "the verb %s is not available in this version",
                         rule->name);
    for (; *seen; seen++)
        if (!strchr(rule->options, *seen))
            return error_set(error, STATUS_USAGE, "%s takes no --%s", rule->name, long_name(*seen));
    if (left == 0)
        return error_set(error, STATUS_USAGE, "%s needs a %s", rule->name, rule->argument);
    if (left > 1 && !rule->many)
        return error_set(error, STATUS_USAGE, "%s takes one %s, but %d arguments are given",
                         rule->name, rule->argument, left);
    return STATUS_OK;
}

enum status options_parse(struct options *options, int argc, char **argv, struct error *error) {
    *options = (struct options){.level = LOG_NORMAL};
    options->overrides = calloc((size_t)argc + 1, sizeof *options->overrides);
    if (!options->overrides)
        return error_set(error, STATUS_FAILED, "out of memory");
    char seen[8] = "";
    enum status status = read_options(options, argc, argv, seen, error);
    if (status == STATUS_OK) {
        for (int i = 0; i < VERB_COUNT && optind < argc && !options->verb_given; i++)
            if (strcmp(argv[optind], verbs[i].name) == 0) {
                options->verb = (enum verb)i;
                options->verb_given = true;
            }
        const int first = optind + options->verb_given;
        if (first < argc)
            options->argument = argv[first];
        options->arguments = argv + first;
        options->argument_count = argc - first;
        if (!options->help && !options->version)
            status = check_verb(options, argc - first, seen, error);
    }
    if (status != STATUS_OK)
        options_free(options);
    return status;
}

void options_free(struct options *options) {
    free(options->overrides);
    options->overrides = NULL;
    options->override_count = 0;
}

/* ---- Help ---- */

static const char *const option_texts[] = {
    ['h'] = "  -h, --help               this text; after a verb: that verb's\n",
    ['V'] = "      --version            the program's version\n",
    ['q'] = "  -q, --quiet              errors and warnings only\n",
    ['v'] = "  -v, --verbose            more detail\n",
    ['s'] =
        "      --set SECTION.KEY=VALUE\n"
        "                           replace a value of the configuration file; may be repeated\n",
    ['j'] = "      --json FILE          write the report as JSON too\n",
    ['r'] = "      --restart            start anew, whatever an interrupted run has left\n",
    ['m'] =
        "      --measure            measure this machine for a few seconds, and plan with that\n",
    ['n'] =
        "      --simulate RANKS     play the run of so many ranks, event by event, each ready as\n"
        "                           this one is; with its timeline\n",
};

static void print_keys(void) {
    log_plain("\nConfiguration (TOML), with defaults:\n");
    const char *section = "";
    for (int i = 0; i < config_key_count(); i++) {
        const struct config_key *key = config_key_at(i);
        if (strcmp(section, key->section) != 0)
            log_plain("[%s]\n", key->section);
        section = key->section;
        char setting[100], values[300];
        snprintf(setting, sizeof setting, "%s%s%s", key->key, key->default_text ? " = " : "",
                 key->default_text ? key->default_text : "");
        config_key_values(key, values, sizeof values);
        const bool required = !key->default_text && key->type != CONFIG_INPUT;
        log_plain("  %-24s %s\n%27s(%s%s)\n", setting, key->help, "", values,
                  required ? "; required" : "");
    }
    log_plain("Paths of model and data in the file are relative to the file's folder; those given\n"
              "with --set, and the checkpoint, to the working directory.\n");
}

static void print_usage(const struct options *options) {
    if (options->verb_given) {
        const struct verb_rule *rule = &verbs[options->verb];
        log_plain("Usage: fptq-pipeline %s [OPTION...] %s%s\n%s: %s%s\n", rule->name,
                  rule->argument, rule->many ? "..." : "", rule->name, rule->summary,
                  rule->available ? "" : " (not available in this version)");
        return;
    }
    log_plain("Usage: mpirun -n RANKS fptq-pipeline [VERB] [OPTION...] CONFIG.toml\n"
              "Quantize a language model to W4A8 with FPTQ on many CPUs.\n\nVerbs:\n");
    for (int i = 0; i < VERB_COUNT; i++)
        if (verbs[i].available)
            log_plain("  %-8s %-13s %s\n", verbs[i].name, verbs[i].argument, verbs[i].summary);
}

void options_print_help(const struct options *options) {
    print_usage(options);
    log_plain("\nOptions:\n");
    for (const struct option *option = long_options; option->name; option++) {
        const int letter = option->val % LONG_ONLY;
        if (!strchr(verb_letters, letter) || !options->verb_given ||
            strchr(verbs[options->verb].options, letter))
            log_plain("%s", option_texts[letter]);
    }
    if (!options->verb_given || strchr(verbs[options->verb].options, 's'))
        print_keys();
    log_plain("\nExit status: 0 done, 1 the input or configuration is wrong, 2 the command line is "
              "wrong,\n3 failed while running, 75 stopped by a signal or time limit: the same "
              "command goes on.\n");
}

void options_print_version(void) {
    log_plain("fptq-pipeline %s\n", FPTQ_VERSION);
}
