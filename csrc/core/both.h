// For functions that the CPU and the GPU share.
#pragma once

#ifdef __CUDACC__
#define BYHAND_HD __host__ __device__
#else
#define BYHAND_HD
#endif
