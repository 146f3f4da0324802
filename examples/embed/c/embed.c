/* Compiles a network with libmxc, trains it for an epoch under noise, and evaluates it:
 *
 *     cc embed.c -o embed $(pkg-config --cflags --libs mxc)
 *     ./embed MODEL.onnx DATA OUT.mxa
 */
#include <mxc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ends the program with the message of an error, if there is one. */
static void check(mxc_error *error) {
  if (error == NULL) return;
  fprintf(stderr, "error: %s\n", mxc_error_message(error));
  if (mxc_error_hint(error) != NULL) fprintf(stderr, "hint: %s\n", mxc_error_hint(error));
  mxc_error_destroy(error);
  exit(1);
}

static bool progress(void *user, const mxc_progress *now) {
  size_t *calls = user;
  ++*calls;
  if (now->stage == MXC_STAGE_PASS) fprintf(stderr, "%s: %.2f s\n", now->name, now->seconds);
  return true; /* false cancels */
}

static void diagnostic(void *user, mxc_severity severity, const char *message) {
  (void)user;
  fprintf(stderr, "%s: %s\n", severity == MXC_SEVERITY_WARNING ? "warning" : "note", message);
}

static unsigned char *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  unsigned char *bytes = NULL;
  if (file != NULL && fseek(file, 0, SEEK_END) == 0) {
    *size = (size_t)ftell(file);
    rewind(file);
    bytes = malloc(*size);
    if (bytes != NULL && fread(bytes, 1, *size, file) != *size) *size = 0;
    fclose(file);
  }
  if (bytes == NULL) {
    fprintf(stderr, "error: cannot read %s\n", path);
    exit(1);
  }
  return bytes;
}

int main(int count, char **arguments) {
  if (count != 4) {
    fprintf(stderr, "usage: embed MODEL.onnx DATA OUT.mxa\n");
    return 2;
  }
  /* The library that is loaded may be newer than the header, within a major version. */
  if (mxc_version() >> 16 != MXC_VERSION >> 16 || mxc_version() < MXC_VERSION) {
    fprintf(stderr, "error: this libmxc is of version %u.%u\n", mxc_version() >> 16, mxc_version() & 0xffff);
    return 1;
  }

  size_t calls = 0;
  mxc_monitor *monitor;
  check(mxc_monitor_create(progress, diagnostic, &calls, &monitor));
  mxc_data *data;
  check(mxc_data_from_path(arguments[2], &data));

  /* The model, from memory. */
  size_t size;
  unsigned char *onnx = read_file(arguments[1], &size);
  mxc_model *model;
  check(mxc_model_from_onnx(onnx, size, arguments[1], NULL, NULL, monitor, &model));
  free(onnx);

  mxc_options *options;
  check(mxc_options_create(&options));
  check(mxc_options_set(options, "budget", "4%"));
  check(mxc_options_set(options, "sigma", "20%"));
  check(mxc_options_set(options, "mean", "0.2860"));
  check(mxc_options_set(options, "std", "0.3530"));
  check(mxc_options_set(options, "samples", "64"));
  mxc_compiled *compiled;
  check(mxc_model_compile(model, data, NULL, options, monitor, &compiled));
  mxc_options_destroy(options);
  mxc_package *package;
  check(mxc_compiled_package(compiled, &package));
  check(mxc_package_write(package, arguments[3]));

  /* An epoch on 256 samples. */
  check(mxc_options_create(&options));
  check(mxc_options_set(options, "epochs", "1"));
  check(mxc_options_set(options, "limit", "256"));
  mxc_package *tuned;
  check(mxc_package_finetune(package, data, NULL, options, monitor, &tuned, NULL));
  mxc_options_destroy(options);

  check(mxc_options_create(&options));
  check(mxc_options_set(options, "seeds", "2"));
  check(mxc_options_set(options, "limit", "200"));
  mxc_bytes *report;
  check(mxc_package_evaluate(tuned, data, options, monitor, &report));
  printf("%s\n", (const char *)mxc_bytes_data(report));

  /* One image of zeros. */
  const size_t shape[] = {1, 1, 28, 28};
  float *image = calloc(28 * 28, sizeof *image);
  mxc_arrays *inputs, *outputs;
  mxc_session *session;
  check(mxc_arrays_create(&inputs));
  check(mxc_arrays_add(inputs, "x", MXC_DTYPE_F32, shape, 4, image));
  free(image);
  check(mxc_package_session(tuned, NULL, monitor, &session));
  check(mxc_session_run(session, inputs, 0, &outputs));
  mxc_array logits;
  check(mxc_arrays_get(outputs, 0, &logits));
  fprintf(stderr, "%s: %zu logits, the first %f; %zu calls of the monitor\n", logits.name, logits.shape[1],
          ((const float *)logits.values)[0], calls);

  mxc_session_destroy(session);
  mxc_arrays_destroy(inputs);
  mxc_arrays_destroy(outputs);
  mxc_bytes_destroy(report);
  mxc_options_destroy(options);
  mxc_package_destroy(tuned);
  mxc_package_destroy(package);
  mxc_compiled_destroy(compiled);
  mxc_model_destroy(model);
  mxc_data_destroy(data);
  mxc_monitor_destroy(monitor);
  return 0;
}
