/* Tables, progress and the report. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <math.h>
#include <unistd.h>
#include <cmocka.h>

#include "pipeline/log.h"
#include "pipeline/progress.h"
#include "pipeline/report.h"
#include "pipeline/table.h"

static const struct report_site sites[] = {
    {0, "attention_input", 15.2f, POLICY_EQUALIZED, 0.0913, 0, {-1, -1, -1, -1}},
    {0, "mlp_hidden", 3248.0f, POLICY_DYNAMIC, 0.1, 0, {-1, -1, -1, -1}},
    {1, "attention_input", 3.5f, POLICY_STATIC, 0.0713, 0.1, {-1, -1, -1, -1}},
    {1, "mlp_hidden", NAN, POLICY_DYNAMIC, 0.2, 0, {-1, -1, -1, -1}},
};
static const struct report_section sections[] = {
    {"load", 0.5, 1.0, 1.5, 2.5},
    {"compute", 6, 7, 8, 40},
};
static const struct report_memory memory[] = {{"h1", 1 << 20}, {"h2", 3 << 20}, {"h1", 2 << 20}};
static const struct report report = {
    .method = "fptq",
    .model = "m",
    .checkpoint = "o.h5",
    .path = "avx2",
    .ranks = 3,
    .hosts = 2,
    .stages = 3,
    .replicas = 1,
    .threads = 2,
    .samples = 128,
    .sequence_length = 2048,
    .checkpoint_bytes = INT64_C(5000000000),
    .seconds = 10,
    .sites = sites,
    .site_count = 4,
    .sections = sections,
    .section_count = 2,
    .memory = memory,
};

/* What print writes to standard output; to be freed. */
static char *printed_of(void (*print)(const struct report *), const struct report *shown) {
    fflush(stdout);
    char *text = calloc(1, 10000);
    assert_non_null(text);
    FILE *file = tmpfile();
    assert_non_null(file);
    const int saved = dup(STDOUT_FILENO);
    dup2(fileno(file), STDOUT_FILENO);
    print(shown);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    rewind(file);
    assert_in_range(fread(text, 1, 9999, file), 0, 9998);
    fclose(file);
    return text;
}

static char *printed(void (*print)(const struct report *)) {
    return printed_of(print, &report);
}

static void test_table(void **state) {
    (void)state;
    char *text;
    size_t size;
    FILE *file = open_memstream(&text, &size);
    assert_non_null(file);
    struct table *table = table_create("lrl", "name\tcount\tnote");
    table_add(table, "%s\t%d\tx", "größer", 7);
    table_add(table, "b\t12345678");
    table_add(table, "c\t1\t\ttoo many");
    table_write(table, file);
    table_free(table);
    fclose(file);
    assert_string_equal(text, "name       count  note\n"
                              "größer         7  x\n"
                              "b       12345678\n"
                              "c              1\n");
    free(text);
}

static void test_tables(void **state) {
    (void)state;
    char *text = printed(report_print_sites);
    assert_string_equal(text, "layer  site             range  activations  weight error\n"
                              "    0  attention_input  15.20  equalized           9.13%\n"
                              "    0  mlp_hidden        3248  dynamic            10.00%\n"
                              "    1  attention_input   3.50  static              7.13%\n"
                              "    1  mlp_hidden           -  dynamic            20.00%\n");
    free(text);
    text = printed(report_print_choices);
    assert_string_equal(text, "site             static  equalized  dynamic  range from  median     "
                              "to  mean weight error\n"
                              "attention_input       1          1        0        3.50   15.20  "
                              "15.20              8.13%\n"
                              "mlp_hidden            0          0        2        3248    3248   "
                              "3248             15.00%\n");
    free(text);
    text = printed(report_print_sections);
    assert_string_equal(text, "seconds by rank  least  mean   most  share of the time\n"
                              "load              0.50  1.00   1.50              10.0%\n"
                              "compute           6.00  7.00   8.00              70.0%\n"
                              "wall time                     10.00\n");
    free(text);
    text = printed(report_print_memory);
    assert_string_equal(text, "peak memory by host  ranks    least     most  sum of ranks\n"
                              "h1                       2  1.0 MiB  2.0 MiB       3.0 MiB\n"
                              "h2                       1  3.0 MiB  3.0 MiB       3.0 MiB\n");
    free(text);
}

/* Where treatments were measured, what each would have cost is shown, and written as JSON. */
static void test_output_errors(void **state) {
    (void)state;
    static const struct report_site measured[] = {
        {0, "mlp_hidden", 30.0f, POLICY_DYNAMIC, 0.1, 0, {0.2, 0.0125, 0.01, 0.0099}}};
    struct report other = report;
    other.sites = measured;
    other.site_count = 1;
    char *text = printed_of(report_print_sites, &other);
    assert_string_equal(text,
                        "layer  site        range  activations  weight error  output: static  "
                        "equalized  dynamic  equalized-dynamic\n"
                        "    0  mlp_hidden  30.00  dynamic            10.00%         20.000%     "
                        "1.250%   1.000%             0.990%\n");
    free(text);
    char file[] = "/tmp/test_report.XXXXXX";
    close(mkstemp(file));
    assert_int_equal(report_write_json(&other, file, NULL), STATUS_OK);
    json_t *root = json_load_file(file, 0, NULL);
    json_t *errors =
        json_object_get(json_array_get(json_object_get(root, "sites"), 0), "output_errors");
    assert_true(json_real_value(json_object_get(errors, "equalized")) == 0.0125);
    assert_int_equal(json_object_size(errors), 4);
    json_decref(root);
    unlink(file);
}

static void test_silence(void **state) {
    (void)state;
    log_set_speaker(false);
    char *text = printed(report_print);
    assert_string_equal(text, "");
    free(text);
    assert_null(progress_create("a", "b", 3));
    log_set_speaker(true);
    text = printed(report_print);
    assert_non_null(strstr(text, "wall time"));
    free(text);
    log_set_level(LOG_QUIET);
    assert_null(progress_create("a", "b", 3));
    log_set_level(LOG_NORMAL);
}

static void test_json(void **state) {
    (void)state;
    char folder[] = "/tmp/test_report_XXXXXX", name[64];
    struct error error;
    assert_non_null(mkdtemp(folder));
    snprintf(name, sizeof name, "%s/r.json", folder);
    assert_int_equal(report_write_json(&report, name, &error), STATUS_OK);
    json_t *root = json_load_file(name, 0, NULL);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "method")), "fptq");
    assert_int_equal(json_integer_value(json_object_get(root, "checkpoint_bytes")), 5000000000);
    const json_t *list = json_object_get(root, "sites");
    assert_int_equal(json_array_size(list), 4);
    const json_t *site = json_array_get(list, 0);
    assert_true(json_real_value(json_object_get(site, "range")) == 15.2);
    assert_string_equal(json_string_value(json_object_get(site, "policy")), "equalized");
    assert_true(json_is_null(json_object_get(json_array_get(list, 3), "range")));
    list = json_object_get(root, "sections");
    assert_int_equal(json_array_size(list), 2);
    assert_true(json_real_value(json_object_get(json_array_get(list, 1), "most")) == 8 &&
                json_real_value(json_object_get(json_array_get(list, 1), "processor")) == 40);
    assert_int_equal(json_integer_value(json_object_get(
                         json_array_get(json_object_get(root, "memory"), 1), "peak_bytes")),
                     3 << 20);
    json_decref(root);
    unlink(name);
    assert_int_equal(rmdir(folder), 0); /* the temporary name is gone too */

    assert_int_equal(report_write_json(&report, name, &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, "No such file or directory"));
    if (access("/dev/full", W_OK) == 0) {
        assert_int_equal(report_write_json(&report, "/dev/full", &error), STATUS_FAILED);
        assert_non_null(strstr(error.message, "No space left"));
    }
}

static void test_progress_text(void **state) {
    (void)state;
    char text[200];
    progress_text("calibrate", "windows", 32, 128, 40, text, sizeof text);
    assert_string_equal(text, "calibrate 32/128 windows (25%), 0.80 windows/s, 2m00s left");
    progress_text("calibrate", "windows", 0, 128, 40, text, sizeof text);
    assert_string_equal(text, "calibrate 0/128 windows (0%)");
    progress_text("write", "layers", 1, 2, 7300, text, sizeof text);
    assert_string_equal(text, "write 1/2 layers (50%), 7300 s each, 2h01m left");
    char small[10];
    progress_text("calibrate", "windows", 1, 2, 3, small, sizeof small);
    assert_string_equal(small, "calibrate");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),         cmocka_unit_test(test_tables),
        cmocka_unit_test(test_output_errors), cmocka_unit_test(test_silence),
        cmocka_unit_test(test_json),          cmocka_unit_test(test_progress_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
