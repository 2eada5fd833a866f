/* zstd as an HDF5 filter (id 32015, registered with The HDF Group; the chunks of hdf5plugin). Used
 * twice: registered in the program itself, and built as libH5Zzstd.so for h5dump and h5py. It needs
 * no symbol of HDF5, so one file serves every build of it. */
#ifndef FPTQ_IO_HDF5_ZSTD_FILTER_H
#define FPTQ_IO_HDF5_ZSTD_FILTER_H

/* The filter's H5Z_class2_t. */
const void *hdf5_zstd_filter(void);

#endif
