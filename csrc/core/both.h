// BYHAND_HD marks functions that are compiled for the CPU and for the GPU.
#pragma once

#ifdef __CUDACC__
#define BYHAND_HD __host__ __device__
#else
#define BYHAND_HD
#endif
