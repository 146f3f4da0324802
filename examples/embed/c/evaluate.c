/* Evaluates a package with libmxc_runtime, which has no compiler:
 *
 *     cc evaluate.c -o evaluate $(pkg-config --cflags --libs mxc_runtime)
 *     ./evaluate PACKAGE.mxa DATA
 */
#include <mxc.h>
#include <stdio.h>

/* Says what is wrong, if anything is. */
static int failed(mxc_error *error) {
  if (error == NULL) return 0;
  fprintf(stderr, "error: %s\n", mxc_error_message(error));
  mxc_error_destroy(error);
  return 1;
}

int main(int count, char **arguments) {
  mxc_package *package = NULL;
  mxc_data *data = NULL;
  mxc_options *options = NULL;
  mxc_bytes *report = NULL;
  if (count != 3) {
    fprintf(stderr, "usage: evaluate PACKAGE.mxa DATA\n");
    return 2;
  }
  int code = failed(mxc_package_open(arguments[1], &package)) || failed(mxc_data_from_path(arguments[2], &data)) ||
             failed(mxc_options_create(&options)) || failed(mxc_options_set(options, "seeds", "2")) ||
             failed(mxc_package_evaluate(package, data, options, NULL, &report));
  if (code == 0) puts((const char *)mxc_bytes_data(report));
  mxc_bytes_destroy(report);
  mxc_options_destroy(options);
  mxc_data_destroy(data);
  mxc_package_destroy(package);
  return code;
}
