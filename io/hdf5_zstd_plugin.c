/* libH5Zzstd.so: what HDF5 looks for in a filter plug-in (set HDF5_PLUGIN_PATH to its folder). */
#include <H5PLextern.h>

#include "io/hdf5_zstd_filter.h"

H5PL_type_t H5PLget_plugin_type(void) {
    return H5PL_TYPE_FILTER;
}

const void *H5PLget_plugin_info(void) {
    return hdf5_zstd_filter();
}
