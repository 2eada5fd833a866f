/* Readers of evaluation sets on small files made here, right ones and wrong ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "io/evaluation.h"

static char folder[] = "/tmp/test_evaluation_XXXXXX";

static const char *path_of(const char *name) {
    static char path[300];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_bytes(const char *name, const char *bytes, size_t count) {
    FILE *file = fopen(path_of(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static void write_text(const char *name, const char *text) {
    write_bytes(name, text, strlen(text));
}

static struct evaluation_items items;
static struct error error;

static void read_items(enum evaluation_set set, const char *name, int64_t limit, int shots,
                       int64_t expected) {
    const enum status status =
        evaluation_read_items(set, path_of(name), limit, shots, &items, &error);
    if (status)
        printf("%s\n", error.message);
    assert_int_equal(status, STATUS_OK);
    assert_int_equal(items.count, expected);
}

static void item_is(int64_t index, const char *context, int choices, int answer,
                    const char *const *continuations) {
    const struct evaluation_item *item = &items.items[index];
    assert_string_equal(item->contexts[0], context);
    assert_int_equal(item->choices, choices);
    assert_int_equal(item->answer, answer);
    for (int i = 0; i < choices; i++)
        assert_string_equal(item->continuations[i], continuations[i]);
}

#define ITEM_IS(index, context, answer, ...)                                                       \
    item_is(index, context, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), answer, \
            (const char *[]){__VA_ARGS__})

/* Reading is refused; the message has `pattern` in it. */
static void refused(enum evaluation_set set, const char *name, int shots, const char *pattern) {
    const enum status status = evaluation_read_items(set, path_of(name), 0, shots, &items, &error);
    assert_int_equal(status, STATUS_INPUT);
    assert_null(items.items);
    if (!strstr(error.message, pattern))
        fail_msg("\"%s\" is not in: %s", pattern, error.message);
}

static void test_texts(void **state) {
    (void)state;
    struct text_buffer text = {0};
    write_text("wiki", " \n = A = \n \n b c\n\t\nlast");
    assert_int_equal(evaluation_read_text(EVALUATION_WIKITEXT2, path_of("wiki"), &text, &error),
                     STATUS_OK);
    assert_int_equal(text_buffer_append(&text, "", 1), true);
    assert_string_equal(text.data, "\n\n = A = \n\n\n\n\n b c\n\n\n\n\nlast\n");
    text_buffer_free(&text);
    write_text("ptb", " no it was n't \n a <unk> \n");
    assert_int_equal(evaluation_read_text(EVALUATION_PTB, path_of("ptb"), &text, &error),
                     STATUS_OK);
    assert_int_equal(text_buffer_append(&text, "", 1), true);
    assert_string_equal(text.data, "no it was n't a <unk>");
    text_buffer_free(&text);
    write_text("blank", " \n\n");
    assert_int_equal(evaluation_read_text(EVALUATION_WIKITEXT2, path_of("blank"), &text, &error),
                     STATUS_INPUT);
    assert_null(text.data);
}

static void test_piqa(void **state) {
    (void)state;
    mkdir(path_of("piqa"), 0700);
    write_text("piqa/valid.jsonl", "{\"goal\": \"g\", \"sol1\": \"a \", \"sol2\": \"\\u00e9b\"}\n\n"
                                   "{\"sol2\": \"d\", \"sol1\": \"c\", \"goal\": \"h\"}");
    write_text("piqa/valid-labels.lst", "1\r\n0");
    read_items(EVALUATION_PIQA, "piqa", 0, 0, 2);
    ITEM_IS(0, "Question: g\nAnswer:", 1, " a ", " \u00e9b");
    assert_int_equal(items.items[0].characters[0], 2);
    assert_int_equal(items.items[0].characters[1], 2);
    ITEM_IS(1, "Question: h\nAnswer:", 0, " c", " d");
    evaluation_items_free(&items);
    read_items(EVALUATION_PIQA, "piqa", 1, 0, 1);
    evaluation_items_free(&items);
    write_text("piqa/valid-labels.lst", "1\n");
    refused(EVALUATION_PIQA, "piqa", 0, "valid.jsonl:3: valid-labels.lst has no label");
    write_text("piqa/valid-labels.lst", "1\n2\n");
    refused(EVALUATION_PIQA, "piqa", 0, "valid.jsonl:3: valid-labels.lst has no label");
    write_text("piqa/valid.jsonl", "{\"goal\": \"g\", \"sol1\": 3}");
    refused(EVALUATION_PIQA, "piqa", 0, "valid.jsonl:1: there is no text \"sol1\"");
    write_text("piqa/valid.jsonl", "\n");
    refused(EVALUATION_PIQA, "piqa", 0, "there are no items of piqa");
    refused(EVALUATION_PIQA, "nowhere", 0, "nowhere/valid.jsonl: No such file");
}

static void test_hellaswag(void **state) {
    (void)state;
    write_text("h.jsonl",
               "{\"ctx\": \"A: b.  c\", \"label\": 1, \"endings\": [\"x [y]\", \"z\"]}\n"
               "{\"activity_label\": \"Baking\", \"ctx_a\": \" [header] How to [x] bake [title]"
               " Mix.\", \"ctx_b\": \"the MAN\", \"label\": \"0\","
               "\"endings\": [\" pours [substeps] it.  [title] Done\", \"e\"]}\n");
    read_items(EVALUATION_HELLASWAG, "h.jsonl", 0, 0, 2);
    ITEM_IS(0, "A: b.  c", 1, " x [y]", " z");
    ITEM_IS(1, "Baking:  How to bake. Mix. The man", 0, " pours it. . Done", " e");
    evaluation_items_free(&items);
    write_text("h.jsonl", "{\"ctx\": \"a\", \"label\": 2, \"endings\": [\"x\", \"z\"]}");
    refused(EVALUATION_HELLASWAG, "h.jsonl", 0, "h.jsonl:1: the right answer is missing, or is");
    write_text("h.jsonl", "{\"ctx\": \"a\", \"label\": 0, \"endings\": [\"x\"]}");
    refused(EVALUATION_HELLASWAG, "h.jsonl", 0, "there are not 2 to 16 choices");
    write_text("h.jsonl", "{\"ctx\": \"a\", \"label\": 0, \"endings\": [\"x\", null]}");
    refused(EVALUATION_HELLASWAG, "h.jsonl", 0, "a choice is no text");
    write_text("h.jsonl", "{\"label\": 0, \"endings\": [\"x\", \"y\"]}");
    refused(EVALUATION_HELLASWAG, "h.jsonl", 0, "no text \"ctx\"");
    write_text("h.jsonl", "{\"ctx\": \"a\", \"label\": 0, \"endings\": [\"x\", \"y\"");
    refused(EVALUATION_HELLASWAG, "h.jsonl", 0, "h.jsonl:1: not a JSON object");
    write_text("h.jsonl", "[1]\n");
    refused(EVALUATION_HELLASWAG, "h.jsonl", 0, "h.jsonl:1: not a JSON object");
}

static void test_arc(void **state) {
    (void)state;
    write_text("a.jsonl",
               "{\"question\": \"q\", \"choices\": [\"x\", \"y\", \"z\"], \"answer\": 2}\n"
               "{\"question\": {\"stem\": \"s\", \"choices\": [{\"text\": \"x\", \"label\": \"1\"},"
               " {\"text\": \"y\", \"label\": \"2\"}]}, \"answerKey\": \"2\"}\n"
               "{\"question\": \"t\", \"choices\": {\"text\": [\"x\", \"y\"], \"label\": [\"A\","
               " \"B\"]}, \"answerKey\": \"A\"}\n");
    read_items(EVALUATION_ARC_EASY, "a.jsonl", 0, 0, 3);
    ITEM_IS(0, "Question: q\nAnswer:", 2, " x", " y", " z");
    ITEM_IS(1, "Question: s\nAnswer:", 1, " x", " y");
    ITEM_IS(2, "Question: t\nAnswer:", 0, " x", " y");
    evaluation_items_free(&items);
    write_text("a.jsonl", "{\"question\": {\"stem\": \"s\", \"choices\": [{\"text\": \"x\"},"
                          " {\"text\": \"y\"}]}, \"answerKey\": \"A\"}");
    refused(EVALUATION_ARC_EASY, "a.jsonl", 0, "answerKey is none of the choices' labels");
    write_text("a.jsonl", "{\"question\": \"q\", \"choices\": [\"x\", \"y\"], \"answer\": -1}");
    refused(EVALUATION_ARC_EASY, "a.jsonl", 0, "the right answer is missing");
    write_text("a.jsonl", "{\"question\": \"q\", \"answer\": 0}");
    refused(EVALUATION_ARC_EASY, "a.jsonl", 0, "not 2 to 16 choices");
}

static void test_words(void **state) {
    (void)state;
    write_text("l.jsonl", "{\"text\": \"in the  old house\"}\n");
    read_items(EVALUATION_LAMBADA, "l.jsonl", 0, 0, 1);
    ITEM_IS(0, "in the  old", 0, " house");
    evaluation_items_free(&items);
    write_text("l.txt", "one two\r\n\nthree four five\n");
    read_items(EVALUATION_LAMBADA, "l.txt", 0, 0, 2);
    ITEM_IS(1, "three four", 0, " five");
    evaluation_items_free(&items);
    write_text("l.txt", "one\n");
    refused(EVALUATION_LAMBADA, "l.txt", 0, "l.txt:1: there are not two words");
    write_text("w.jsonl", "{\"sentence\": \"The cup, and _ was red. \", \"option1\": \"it\","
                          " \"option2\": \"he\", \"answer\": \"2\"}\n");
    read_items(EVALUATION_WINOGRANDE, "w.jsonl", 0, 0, 1);
    ITEM_IS(0, "The cup, and it", 1, " was red.", " was red.");
    assert_string_equal(items.items[0].contexts[1], "The cup, and he");
    evaluation_items_free(&items);
    write_text("w.jsonl", "{\"sentence\": \"a\", \"option1\": \"it\", \"option2\": \"he\"}\n");
    refused(EVALUATION_WINOGRANDE, "w.jsonl", 0, "the sentence has no \"_\"");
}

static void test_mmlu(void **state) {
    (void)state;
    mkdir(path_of("mmlu"), 0700);
    mkdir(path_of("mmlu/test"), 0700);
    mkdir(path_of("mmlu/dev"), 0700);
    write_text("mmlu/test/world_history_test.csv",
               "question,choice0,choice1,choice2,choice3,answer\n"
               "\" Who, \"\"he\"\"\nsaid?\",a,\"b,b\",,d,2\n"
               "q2,a,b,c,d,0\nq3,a,b,c,d,1");
    write_text("mmlu/test/anatomy_test.csv", "bone?,w,x,y,z,D\r\n");
    write_text("mmlu/dev/world_history_dev.csv", "d1,a,b,c,d,B\nd2,a,b,c,d,C\n");
    write_text("mmlu/dev/anatomy_dev.csv", "d1,a,b,c,d,A\n");
    read_items(EVALUATION_MMLU, "mmlu", 0, 0, 4);
    ITEM_IS(0,
            "The following are multiple choice questions (with answers) about anatomy.\n\n"
            "bone?\nA. w\nB. x\nC. y\nD. z\nAnswer:",
            3, " A", " B", " C", " D");
    ITEM_IS(1,
            "The following are multiple choice questions (with answers) about world history.\n\n"
            "Who, \"he\"\nsaid?\nA. a\nB. b,b\nC. \nD. d\nAnswer:",
            2, " A", " B", " C", " D");
    evaluation_items_free(&items);
    read_items(EVALUATION_MMLU, "mmlu", 3, 1, 3); /* one of anatomy, two of history */
    ITEM_IS(2,
            "The following are multiple choice questions (with answers) about world history.\n\n"
            "d1\nA. a\nB. b\nC. c\nD. d\nAnswer: B\n\nq2\nA. a\nB. b\nC. c\nD. d\nAnswer:",
            0, " A", " B", " C", " D");
    evaluation_items_free(&items);
    read_items(EVALUATION_MMLU, "mmlu", 1, 0, 1);
    evaluation_items_free(&items);
    refused(EVALUATION_MMLU, "mmlu", 2, "1 questions are too few for 2 shots");
    refused(EVALUATION_MMLU, "nowhere", 0, "nowhere/test: No such file");
    write_text("mmlu/test/anatomy_test.csv", "\nbone?,w,x,y,z,E\n");
    refused(EVALUATION_MMLU, "mmlu", 0, "anatomy_test.csv:2: the answer is neither");
    write_text("mmlu/test/anatomy_test.csv", "bone?,w,x,y,A\n");
    refused(EVALUATION_MMLU, "mmlu", 0, "there are fewer than 6 fields");
    write_text("mmlu/test/anatomy_test.csv", "bone?,w,x,y,z,A,\n");
    refused(EVALUATION_MMLU, "mmlu", 0, "there are more than 6 fields");
    write_text("mmlu/test/anatomy_test.csv", "\"bone?,w,x,y,z,A\n");
    refused(EVALUATION_MMLU, "mmlu", 0, "a quoted field does not end");
    write_bytes("mmlu/test/anatomy_test.csv", "bo\0e?,w,x,y,z,A\n", 16);
    refused(EVALUATION_MMLU, "mmlu", 0, "there is a NUL byte");
}

/* Mangled files are read or refused, and never do harm. */
static void test_mangled(void **state) {
    (void)state;
    const unsigned seed = (unsigned)time(NULL);
    printf("seed %u\n", seed);
    srand(seed);
    static const struct {
        enum evaluation_set set;
        const char *name, *argument, *text;
    } files[] = {
        {EVALUATION_HELLASWAG, "m.jsonl", "m.jsonl",
         "{\"activity_label\": \"B\", \"ctx_a\": \" [header] H  [title] M.\", \"ctx_b\": "
         "\"\\u00c4\","
         "\"label\": \"0\", \"endings\": [\" p [s] it.\", \"e\"]}\n"},
        {EVALUATION_ARC_EASY, "m.jsonl", "m.jsonl",
         "{\"question\": {\"stem\": \"s\", \"choices\": [{\"text\": \"x\", \"label\": \"1\"},"
         " {\"text\": \"y\", \"label\": \"2\"}]}, \"answerKey\": \"2\"}\n"},
        {EVALUATION_LAMBADA, "m.txt", "m.txt", "one two three\nfour five\n"},
        {EVALUATION_MMLU, "mmlu/test/anatomy_test.csv", "mmlu",
         "question,c,c,c,c,answer\n\"a, \"\"b\"\"\",a,b,c,d,0\r\nq2,a,b,c,d,B\n"},
    };
    for (int round = 0; round < 2000; round++) {
        const int which = rand() % (int)(sizeof files / sizeof *files);
        char text[400];
        const size_t length = strlen(files[which].text);
        memcpy(text, files[which].text, length);
        for (int change = rand() % 4; change >= 0; change--)
            text[(size_t)rand() % length] = (char)(rand() % 256);
        write_bytes(files[which].name, text, length - (size_t)rand() % 3);
        const enum status status = evaluation_read_items(
            files[which].set, path_of(files[which].argument), 0, rand() % 2, &items, &error);
        assert_true(status == STATUS_OK || (status == STATUS_INPUT && error.message[0]));
        evaluation_items_free(&items);
    }
}

static int set_up(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),     cmocka_unit_test(test_piqa),
        cmocka_unit_test(test_hellaswag), cmocka_unit_test(test_arc),
        cmocka_unit_test(test_words),     cmocka_unit_test(test_mmlu),
        cmocka_unit_test(test_mangled),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
