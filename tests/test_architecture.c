/* config.json of every family: what is read, what is refused and why. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "pipeline/architecture.h"

static const char llama[] =
    "{'model_type':'llama','hidden_size':32,'intermediate_size':40,'num_hidden_layers':2,"
    "'num_attention_heads':4,'vocab_size':64,'rms_norm_eps':1e-5}";
static const char bloom[] =
    "{'model_type':'bloom','hidden_size':32,'n_layer':2,'n_head':8,'vocab_size':64}";

/* Read `config` with the members of `changes` put in its place; a null member is taken out. */
static enum status read(const char *config, const char *changes, struct model_shape *shape,
                        const struct architecture **architecture, struct error *error) {
    char text[2][1000];
    json_t *objects[2];
    for (int i = 0; i < 2; i++) {
        snprintf(text[i], sizeof text[i], "%s", i ? changes : config);
        for (char *quote; (quote = strchr(text[i], '\''));)
            *quote = '"';
        objects[i] = json_loads(text[i], 0, NULL);
        assert_non_null(objects[i]);
    }
    const char *key;
    json_t *value;
    json_object_foreach(objects[1], key, value) {
        if (json_is_null(value))
            json_object_del(objects[0], key);
        else
            json_object_set(objects[0], key, value);
    }
    memset(shape, 0, sizeof *shape);
    snprintf(shape->model_type, sizeof shape->model_type, "%s",
             json_string_value(json_object_get(objects[0], "model_type")));
    enum status status = architecture_find(objects[0], "config.json", architecture, error);
    if (!status)
        status = (*architecture)->read_config(objects[0], "config.json", shape, error);
    json_decref(objects[0]);
    json_decref(objects[1]);
    return status;
}

static struct model_shape accept(const char *config, const char *changes) {
    struct model_shape shape;
    const struct architecture *architecture;
    struct error error = {0};
    if (read(config, changes, &shape, &architecture, &error))
        fail_msg("%s: %s", changes, error.message);
    return shape;
}

static void refuse(const char *config, const char *changes, const char *words) {
    struct model_shape shape;
    const struct architecture *architecture;
    struct error error = {0};
    assert_int_equal(read(config, changes, &shape, &architecture, &error), STATUS_INPUT);
    if (!strstr(error.message, words))
        fail_msg("\"%s\" is not in: %s", words, error.message);
}

static void test_bloom(void **state) {
    (void)state;
    struct model_shape shape = accept(bloom, "{}");
    assert_int_equal(shape.hidden, 32);
    assert_int_equal(shape.intermediate, 128);
    assert_int_equal(shape.layers, 2);
    assert_int_equal(shape.heads, 8);
    assert_int_equal(shape.kv_heads, 8);
    assert_int_equal(shape.head_dim, 4);
    assert_int_equal(shape.max_positions, 2048);
    assert_true(shape.tied_head);
    assert_true(shape.norm_epsilon == 1e-5f);
    assert_int_equal(shape.window, 0);
    /* The keys of the models as they were published. */
    shape =
        accept(bloom, "{'hidden_size':null,'n_head':null,'n_embed':48,'num_attention_heads':12,"
                      "'layer_norm_epsilon':1e-6,'seq_length':512,'tie_word_embeddings':false}");
    assert_int_equal(shape.hidden, 48);
    assert_int_equal(shape.heads, 12);
    assert_int_equal(shape.max_positions, 512);
    assert_false(shape.tied_head);
    assert_true(shape.norm_epsilon == 1e-6f);
    refuse(bloom, "{'n_head':5}", "no multiple of 5 heads");
    refuse(bloom, "{'n_head':0}", "\"n_head\" is 0");
    refuse(bloom, "{'n_layer':null}", "\"num_hidden_layers\" is missing");
    refuse(bloom, "{'layer_norm_epsilon':0}", "layer_norm_epsilon");
    refuse(bloom, "{'apply_residual_connection_post_layernorm':true}", "post_layernorm");
    refuse(bloom, "{'model_type':'gpt_neox'}",
           "supported: bloom, llama, mistral, qwen2, starcoder2");
}

static void test_llama(void **state) {
    (void)state;
    const struct model_shape shape = accept(llama, "{}");
    assert_int_equal(shape.kv_heads, 4);
    assert_int_equal(shape.head_dim, 8);
    assert_false(shape.tied_head);
    assert_int_equal(shape.rope_scaling.kind, ROPE_PLAIN);
    assert_true(shape.rope_theta == 10000.0f);
    assert_int_equal(accept(llama, "{'head_dim':6}").head_dim, 6);
    assert_int_equal(accept(llama, "{'num_key_value_heads':2}").kv_heads, 2);
    refuse(llama, "{'num_key_value_heads':3}", "no multiple of num_key_value_heads");
    refuse(llama, "{'num_attention_heads':5}", "no multiple of num_attention_heads");
    refuse(llama, "{'head_dim':7}", "odd");
    refuse(llama, "{'hidden_act':'gelu'}", "gelu");
    refuse(llama, "{'partial_rotary_factor':0.5}", "partial_rotary_factor");
    refuse(llama, "{'rms_norm_eps':-1}", "rms_norm_eps");
}

static void test_rope(void **state) {
    (void)state;
    /* As transformers 5 writes it, and as it was before. */
    struct model_shape shape =
        accept(llama, "{'rope_parameters':{'rope_type':'default','rope_theta':500000.0}}");
    assert_true(shape.rope_theta == 500000.0f);
    shape = accept(llama, "{'rope_theta':1e6,'rope_scaling':{'type':'linear','factor':4.0}}");
    assert_true(shape.rope_theta == 1e6f);
    assert_int_equal(shape.rope_scaling.kind, ROPE_LINEAR);
    assert_true(shape.rope_scaling.factor == 4.0f);
    shape =
        accept(llama, "{'rope_scaling':{'rope_type':'llama3','factor':8.0,'low_freq_factor':1.0,"
                      "'high_freq_factor':4.0,'original_max_position_embeddings':8192}}");
    assert_int_equal(shape.rope_scaling.kind, ROPE_LLAMA3);
    assert_true(shape.rope_scaling.original_context == 8192.0f);
    refuse(llama, "{'rope_scaling':{'type':'yarn','factor':4.0}}", "yarn");
    refuse(llama, "{'rope_scaling':{'type':'linear'}}", "factor");
    refuse(llama,
           "{'rope_scaling':{'rope_type':'llama3','factor':8.0,'low_freq_factor':4.0,"
           "'high_freq_factor':4.0,'original_max_position_embeddings':8192}}",
           "high_freq_factor must exceed");
}

static void test_window(void **state) {
    (void)state;
#define MISTRAL "'model_type':'mistral'"
#define QWEN2 "'model_type':'qwen2','sliding_window':24"
    assert_int_equal(accept(llama, "{" MISTRAL ",'sliding_window':24}").window, 24);
    /* Left out, it is the default of transformers; null is none, which deleting cannot say. */
    assert_int_equal(accept(llama, "{" MISTRAL "}").window, 4096);
    assert_int_equal(accept(llama, "{" MISTRAL ",'sliding_window':false}").window, 0);
    refuse(llama, "{" MISTRAL ",'sliding_window':0}", "sliding_window");
    assert_int_equal(accept(llama, "{" QWEN2 "}").window, 0);
    assert_int_equal(accept(llama, "{" QWEN2 ",'use_sliding_window':false}").window, 0);
    assert_int_equal(accept(llama, "{" QWEN2 ",'use_sliding_window':true}").window, 0);
    assert_int_equal(
        accept(llama, "{" QWEN2 ",'use_sliding_window':true,'max_window_layers':0}").window, 24);
    refuse(llama, "{" QWEN2 ",'use_sliding_window':true,'max_window_layers':1}", "1 of 2 layers");
    refuse(llama,
           "{" QWEN2 ",'use_sliding_window':true,"
           "'layer_types':['full_attention','sliding_attention']}",
           "1 of 2 layers");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bloom),
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
