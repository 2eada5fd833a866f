#include "pipeline/quantize_layer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/clip_ranges.h"
#include "pipeline/method.h"
#include "pipeline/quantize_gptq.h"
#include "pipeline/quantize_linear.h"
#include "pipeline/quantize_team.h"
#include "pipeline/resume.h"
#include "pipeline/site_error.h"
#include "pipeline/stored.h"
#include "pipeline/weight_maxima.h"
#include "pipeline/weights.h"

static void share_linears(const struct model *model, const struct quantize_team *team,
                          int member_of[LINEARS_MAX]) {
    int64_t weights[LINEARS_MAX];
    for (int i = 0; i < model->architecture->linear_count; i++)
        weights[i] = model_linear_weights(model, i);
    quantize_team_share(team, model->architecture->linear_count, weights, member_of);
}

static enum status write_chunks(struct checkpoint_part *part, const char *path,
                                const struct quantized_linear *linear, struct error *error) {
    enum status status =
        checkpoint_part_begin_rows(part, path, linear->type, linear->rows, linear->columns, error);
    for (int64_t chunk = 0; !status && chunk < linear->chunks; chunk++) {
        const int64_t begin = chunk * linear->chunk_rows;
        const int64_t left = linear->rows - begin;
        status = checkpoint_part_write_rows(
            part, begin, left < linear->chunk_rows ? left : linear->chunk_rows,
            linear->packed + (size_t)chunk * linear->chunk_bytes, error);
    }
    return status ? status : checkpoint_part_end_rows(part, error);
}

static enum status write_site(struct checkpoint_part *part, const char *group,
                              const struct fold_site *site, struct error *error) {
    char path[300];
    snprintf(path, sizeof path, "%s/input_absmax", group);
    enum status status =
        checkpoint_part_write(part, path, CHECKPOINT_F32, 1, &site->channels, site->maxima, error);
    snprintf(path, sizeof path, "%s/input_scale", group);
    if (!status && input_policy_is_static(site->policy))
        status =
            checkpoint_part_write(part, path, CHECKPOINT_F32, 0, NULL, &site->input_scale, error);
    snprintf(path, sizeof path, "%s/equalization", group);
    if (!status && site->scale)
        status = checkpoint_part_write(part, path, CHECKPOINT_F32, 1, &site->channels, site->scale,
                                       error);
    return status;
}

static enum status write_attributes(struct checkpoint_part *part, const char *group,
                                    const struct config *config, const struct fold_site *site,
                                    struct error *error) {
    enum status status = checkpoint_part_attribute_text(part, group, "input_policy",
                                                        input_policy_name(site->policy), error);
    if (!status)
        status = checkpoint_part_attribute_float(part, group, "input_range", site->range, error);
    const struct quantize_format format = config_weight_format(config);
    const struct {
        const char *name;
        int64_t value;
    } integers[] = {{"weight_bits", format.bits},
                    {"group_size", format.group_size},
                    {"symmetric", format.symmetric},
                    {"folded", site->folded}};
    for (size_t i = 0; !status && i < sizeof integers / sizeof integers[0]; i++)
        status = checkpoint_part_attribute_integer(part, group, integers[i].name, integers[i].value,
                                                   error);
    return status;
}

static enum status write_linear(const struct quantize_job *job, struct checkpoint_part *part,
                                int layer, int index, const struct fold_layer *fold,
                                const struct quantized_linear *linear, struct error *error) {
    const struct linear_rule *rule = &job->model->architecture->linears[index];
    const struct fold_site *site = &fold->sites[rule->reads];
    const struct quantize_format format = config_weight_format(job->config);
    const int64_t shape[] = {linear->rows, linear->groups};
    char group[200], path[300];
    stored_path(job->model, layer, rule->name, "", group);
    snprintf(path, sizeof path, "%s/weight", group);
    enum status status = write_chunks(part, path, linear, error);
    snprintf(path, sizeof path, "%s/weight_scale", group);
    if (!status)
        status =
            stored_write_floats(part, path, format.scale_type, 2, shape, linear->scales, error);
    snprintf(path, sizeof path, "%s/weight_zero_point", group);
    if (!status && linear->zero_points)
        status = checkpoint_part_write(part, path, CHECKPOINT_INT4, 2, shape, linear->zero_points,
                                       error);
    if (!status)
        status = write_site(part, group, site, error);
    if (!status)
        status = write_attributes(part, group, job->config, site, error);
    if (status)
        return status;
    float *bias = NULL;
    const struct tensor *tensor = model_layer_tensor(job->model, layer, rule->name, ".bias");
    status = weights_load_bias(job->model, layer, rule, &bias, error);
    if (!status && bias) {
        fold_bias(fold, index, linear->rows, bias);
        snprintf(path, sizeof path, "%s/bias", group);
        status = stored_write_floats(part, path, stored_type(tensor, bias, linear->rows), 1,
                                     &linear->rows, bias, error);
    }
    free(bias);
    return status;
}

/* A norm's weight or bias, folded. */
static enum status write_norm(const struct quantize_job *job, struct checkpoint_part *part,
                              int layer, const struct norm_rule *norm, const char *suffix,
                              const struct fold_layer *fold, struct error *error) {
    const struct tensor *tensor = model_layer_tensor(job->model, layer, norm->name, suffix);
    const int64_t hidden = job->model->shape.hidden;
    float *vector;
    enum status status = weights_load_norm(job->model, tensor, &vector, error);
    if (status)
        return status;
    fold_norm(fold, norm, vector);
    char path[200];
    stored_path(job->model, layer, norm->name, suffix, path);
    status = stored_write_floats(part, path, stored_type(tensor, vector, hidden), 1, &hidden,
                                 vector, error);
    free(vector);
    return status;
}

static enum status write_norms(const struct quantize_job *job, struct checkpoint_part *part,
                               int layer, const struct fold_layer *fold, struct error *error) {
    const struct architecture *architecture = job->model->architecture;
    enum status status = STATUS_OK;
    for (int i = 0; !status && i < NORM_COUNT; i++) {
        const struct norm_rule *norm = &architecture->norms[i];
        status = write_norm(job, part, layer, norm, ".weight", fold, error);
        if (!status && architecture->norm_kind == NORM_LAYER)
            status = write_norm(job, part, layer, norm, ".bias", fold, error);
    }
    return status;
}

/* Sums in the order of rows, so the same for any number of threads. */
static void add_errors(const struct quantized_linear *linear, double sums[2]) {
    for (int64_t row = 0; row < linear->rows; row++) {
        sums[0] += linear->errors[row];
        sums[1] += linear->errors[linear->rows + row];
    }
}

/* What a rank does for one layer: compute its linears; the writer writes them as they come. */
struct layer_work {
    const struct quantize_job *job;
    int layer;
    struct quantize_team team;
    int member_of[LINEARS_MAX];
    struct fold_layer fold;
    struct checkpoint_part *part; /* NULL for a helping replica */
    struct quantize_gptq gptq;
    double errors[SITE_COUNT][2], damping[SITE_COUNT];
    double treatments[SITE_COUNT][TREATMENT_COUNT]; /* of site_error.h; negative: not measured */
    struct timing *timing;
};

static enum status round_linear(struct layer_work *work, int index,
                                const struct quantize_format *format, const float *shrink,
                                struct quantized_linear *linear, struct error *error) {
    const struct quantize_job *job = work->job;
    const enum site site = job->model->architecture->linears[index].reads;
    const struct timing_mark begin = timing_mark();
    if (!job->hessians)
        return quantized_linear_compute(job->model, job->compute, work->layer, index, &work->fold,
                                        format, shrink, linear, error);
    const enum status status =
        quantize_gptq_factor(&work->gptq, job->config, job->compute, job->hessians, work->layer,
                             site, &work->fold, error);
    timing_move(work->timing, SECTION_QUANTIZE, SECTION_FACTOR, &begin);
    return status ? status
                  : quantize_gptq_compute(&work->gptq, job->model, job->compute, work->layer, index,
                                          &work->fold, format, shrink, linear, error);
}

static enum status compute_linear(struct layer_work *work, int index,
                                  const struct quantize_format *format,
                                  struct quantized_linear *linear, struct error *error) {
    const struct quantize_job *job = work->job;
    float *shrink;
    enum status status = clip_ranges(job->model, job->config, job->compute, job->sample,
                                     work->layer, index, &work->fold, &shrink, error);
    if (!status)
        status = round_linear(work, index, format, shrink, linear, error);
    free(shrink);
    return status;
}

static enum status do_linear(struct layer_work *work, int index, struct error *error) {
    const struct quantize_job *job = work->job;
    const struct linear_rule *rule = &job->model->architecture->linears[index];
    const int computes = quantize_team_replica(&work->team, work->member_of[index]);
    const bool mine = computes == job->mesh->replica;
    if (!mine && !work->part)
        return STATUS_OK;
    const struct quantize_format format = config_weight_format(job->config);
    struct quantized_linear linear;
    struct timing_mark since = timing_mark();
    enum status status = quantized_linear_create(job->model, rule, &format, &linear, error);
    if (status)
        return status;
    if (mine)
        status = compute_linear(work, index, &format, &linear, error);
    timing_add(work->timing, SECTION_QUANTIZE, &since);
    const int other = mine ? work->team.first : computes;
    job->mesh->awaited = (struct mesh_awaited){other * job->mesh->stages + job->mesh->stage,
                                               work->layer, work->layer + 1};
    if (!status && !mine && !quantized_linear_receive(job->mesh, computes, &linear))
        status = mesh_fault_heard(error);
    if (!status && !work->part && !quantized_linear_send(job->mesh, work->team.first, &linear))
        status = mesh_fault_heard(error);
    timing_add(work->timing, SECTION_WAIT, &since);
    if (!status && work->part) {
        status = write_linear(job, work->part, work->layer, index, &work->fold, &linear, error);
        add_errors(&linear, work->errors[rule->reads]);
        work->damping[rule->reads] = linear.damping;
        timing_add(work->timing, SECTION_WRITE, &since);
    }
    quantized_linear_free(&linear);
    return status;
}

static enum status do_linears(struct layer_work *work, struct error *error) {
    enum status status = STATUS_OK;
    for (int i = 0; !status && i < work->job->model->architecture->linear_count; i++) {
        status = do_linear(work, i, error);
        if (!status)
            status = stop_check(work->job->stop, 0, error);
        if (!status && mesh_fault_pending(work->job->mesh))
            status = mesh_fault_heard(error);
    }
    return status;
}

static struct site_result site_result_of(const struct layer_work *work, int site) {
    const double *sums = work->errors[site];
    struct site_result result = {
        .layer = work->layer,
        .site = site,
        .policy = (int)work->fold.sites[site].policy,
        .range = work->fold.sites[site].range,
        .damping = work->damping[site],
        .weight_error = sums[1] > 0 ? sqrt(sums[0] / sums[1]) : 0,
    };
    memcpy(result.errors, work->treatments[site], sizeof result.errors);
    return result;
}

static enum status write_layer(struct layer_work *work, struct error *error) {
    const struct quantize_job *job = work->job;
    char name[32];
    layer_part_name(work->layer, name);
    enum status status = checkpoint_part_create(
        job->config->output.checkpoint, name, job->config->output.compression, &work->part, error);
    if (status)
        return status;
    status = do_linears(work, error);
    if (!status)
        status = write_norms(job, work->part, work->layer, &work->fold, error);
    struct timing_mark since = timing_mark();
    struct site_result results[SITE_COUNT];
    for (int site = 0; site < SITE_COUNT; site++)
        results[site] = site_result_of(work, site);
    if (!status)
        status = resume_save_layer(job->resume, work->layer, results, error);
    if (!status)
        status = checkpoint_part_finish(work->part, error);
    else
        checkpoint_part_abandon(work->part);
    timing_add(work->timing, SECTION_WRITE, &since);
    return status;
}

/* policy = "error": choose by measuring, with all that the decision rests on. */
static enum status decide_by_error(struct fold_basis *basis, struct layer_work *work,
                                   struct error *error) {
    enum input_policy policies[SITE_COUNT];
    enum status status = site_errors_measure(basis, work->treatments, error);
    for (int site = 0; !status && site < SITE_COUNT; site++)
        policies[site] =
            site_errors_choose(work->treatments[site], work->job->config->quantization.tolerance);
    basis->policies = policies;
    if (!status)
        status = fold_layer_decide(basis, &work->fold, error);
    basis->policies = NULL;
    return status;
}

static enum status decide_layer(struct layer_work *work, struct error *error) {
    const struct quantize_job *job = work->job;
    const int layer = work->layer;
    const int64_t channels = model_layer_channels(job->model);
    float *largest = NULL;
    enum status status = STATUS_OK;
    if (method_of(&job->config->quantization)->smooths) {
        largest = malloc((size_t)channels * sizeof *largest);
        status = largest ? weight_maxima(job->model, job->compute->team, layer, largest, error)
                         : error_set(error, STATUS_FAILED, "no memory for layer %d", layer);
    }
    struct fold_basis basis = {
        .model = job->model,
        .config = job->config,
        .maxima = job->maxima + (layer - job->layer_begin) * channels,
        .weight_maxima = largest,
        .layer = layer,
        .compute = job->compute,
        .sample = job->sample,
    };
    for (int site = 0; site < SITE_COUNT; site++)
        for (int t = 0; t < TREATMENT_COUNT; t++)
            work->treatments[site][t] = -1;
    struct timing_mark since = timing_mark();
    if (!status)
        status = method_policy_rule(&job->config->quantization) == POLICY_BY_ERROR
                     ? decide_by_error(&basis, work, error)
                     : fold_layer_decide(&basis, &work->fold, error);
    timing_add(work->timing, SECTION_QUANTIZE, &since);
    free(largest);
    return status;
}

static enum status do_layer(const struct quantize_job *job, int layer,
                            void (*finished)(void *, const struct site_result *), void *context,
                            struct timing *timing, struct error *error) {
    struct layer_work work = {.job = job,
                              .layer = layer,
                              .team = quantize_team_of(layer - job->layer_begin,
                                                       job->layer_end - job->layer_begin,
                                                       job->mesh->replicas),
                              .timing = timing};
    if (!quantize_team_has(&work.team, job->mesh->replica))
        return STATUS_OK;
    share_linears(job->model, &work.team, work.member_of);
    weights_prefetch_layer(job->model, layer);
    enum status status = decide_layer(&work, error);
    if (status)
        return status;
    const bool writes = job->mesh->replica == work.team.first;
    status = writes ? write_layer(&work, error) : do_linears(&work, error);
    for (int site = 0; writes && !status && site < SITE_COUNT; site++) {
        const struct site_result result = site_result_of(&work, site);
        finished(context, &result);
    }
    fold_layer_free(&work.fold);
    quantize_gptq_free(&work.gptq);
    return status;
}

enum status quantize_layers(const struct quantize_job *job,
                            void (*finished)(void *context, const struct site_result *result),
                            void *context, struct timing *timing, struct error *error) {
    enum status status = STATUS_OK;
    for (int layer = job->layer_begin; !status && layer < job->layer_end; layer++)
        if (!job->resume->finished[layer]) {
            status = do_layer(job, layer, finished, context, timing, error);
            if (job->hessians)
                hessians_drop(job->hessians, layer);
        }
    if (status)
        mesh_fault_raise(job->mesh);
    status = mesh_agree(job->mesh, status, error);
    mesh_fault_settle(job->mesh);
    return status;
}
