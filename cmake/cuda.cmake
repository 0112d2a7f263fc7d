# The CUDA part of the build. Included before project(): the architectures must be known before the
# CUDA language is enabled, because the default of older CMake (compute_52) is gone from CUDA 13.
#
#   byhand_find_cuda()        after project(): sets BYHAND_HAVE_CUDA and BYHAND_CUDA_REASON
#   byhand_cuda_module(name)  the kernels of cuda/ behind the registry of csrc/bind.cpp
#
# -DBYHAND_CUDA=
#   (nothing)  CUDA when nvcc is found; an nvcc that is found but does not work is an error
#   AUTO       CUDA when a working nvcc is found; otherwise the reason is recorded
#   ON         CUDA or an error
#   OFF        no CUDA
set(BYHAND_CUDA "" CACHE STRING "build the CUDA kernels: ON, OFF, AUTO, or empty (see cmake/cuda.cmake)")
set_property(CACHE BYHAND_CUDA PROPERTY STRINGS "" AUTO ON OFF)

# Machine code for Ampere and Hopper, and PTX, which the driver compiles for later GPUs.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES "80-real;90a-real;80-virtual" CACHE STRING "CUDA architectures")
endif()

set(BYHAND_CUDA_ROOT "${CMAKE_CURRENT_LIST_DIR}/../cuda")
get_filename_component(BYHAND_CUDA_ROOT "${BYHAND_CUDA_ROOT}" ABSOLUTE)

# The nvcc to use: CMAKE_CUDA_COMPILER, else CUDACXX, else the PATH and the usual places.
function(byhand_find_nvcc result)
  if(CMAKE_CUDA_COMPILER)
    set(nvcc "${CMAKE_CUDA_COMPILER}")
  elseif(NOT "$ENV{CUDACXX}" STREQUAL "")
    separate_arguments(nvcc UNIX_COMMAND "$ENV{CUDACXX}")
    list(GET nvcc 0 nvcc)
  else()
    find_program(BYHAND_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda
                 PATH_SUFFIXES bin)
    mark_as_advanced(BYHAND_NVCC)
    set(nvcc "${BYHAND_NVCC}")
  endif()
  if(nvcc AND NOT IS_ABSOLUTE "${nvcc}")
    find_program(found "${nvcc}" NO_CACHE)
    if(found)
      set(nvcc "${found}")
    endif()
  endif()
  if(NOT nvcc)
    set(nvcc "")
  endif()
  set(${result} "${nvcc}" PARENT_SCOPE)
endfunction()

# nvcc looks for its libraries in lib64; the toolkit's wheels on PyPI have them in lib.
function(byhand_toolkit_flags nvcc result)
  get_filename_component(bin "${nvcc}" DIRECTORY)
  get_filename_component(root "${bin}" DIRECTORY)
  if(EXISTS "${root}/lib/libcudart_static.a" AND NOT EXISTS "${root}/lib64")
    set(${result} "-L${root}/lib" PARENT_SCOPE)
  else()
    set(${result} "" PARENT_SCOPE)
  endif()
endfunction()

# Compiles and links a small program for every architecture: nvcc can be installed without its
# headers, its back ends, its runtime library or a host compiler that it accepts. `reason` becomes
# empty, or the last line that says what went wrong.
function(byhand_try_nvcc nvcc reason)
  set(flags "")
  foreach(entry IN LISTS CMAKE_CUDA_ARCHITECTURES)
    string(REGEX MATCH "^([0-9]+[af]?)(-real|-virtual)?$" matched "${entry}")
    set(arch "${CMAKE_MATCH_1}")
    set(kind "${CMAKE_MATCH_2}")
    if(NOT arch)
      continue()  # "native", "all": left to CMake
    endif()
    if(NOT kind STREQUAL "-virtual")
      list(APPEND flags "--generate-code=arch=compute_${arch},code=sm_${arch}")
    endif()
    if(NOT kind STREQUAL "-real")
      list(APPEND flags "--generate-code=arch=compute_${arch},code=compute_${arch}")
    endif()
  endforeach()
  if(CMAKE_CUDA_HOST_COMPILER)
    list(APPEND flags "-ccbin=${CMAKE_CUDA_HOST_COMPILER}")
  elseif(NOT "$ENV{CUDAHOSTCXX}" STREQUAL "")
    list(APPEND flags "-ccbin=$ENV{CUDAHOSTCXX}")
  endif()

  byhand_toolkit_flags("${nvcc}" toolkit_flags)
  separate_arguments(toolkit_flags)
  list(APPEND flags ${toolkit_flags})

  set(key "${nvcc} ${flags}")
  if(BYHAND_NVCC_WORKS STREQUAL key)
    set(${reason} "" PARENT_SCOPE)
    return()
  endif()
  set(dir "${CMAKE_BINARY_DIR}/CMakeFiles/byhand_try_nvcc")
  file(WRITE "${dir}/try.cu" "#include <cuda_bf16.h>\n#include <cuda_runtime.h>\n"
       "__global__ void axpy(__nv_bfloat16* y, const float* x) { y[0] = __float2bfloat16(x[0]); }\n"
       "int main() { axpy<<<1, 1>>>(nullptr, nullptr); return cudaGetLastError() == cudaSuccess; }\n")
  message(STATUS "Checking that ${nvcc} works")
  execute_process(COMMAND "${nvcc}" -std=c++17 ${flags} -o "${dir}/try" "${dir}/try.cu"
                  WORKING_DIRECTORY "${dir}" RESULT_VARIABLE status
                  OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(status EQUAL 0)
    set(BYHAND_NVCC_WORKS "${key}" CACHE INTERNAL "the nvcc command line that was seen to work")
    set(${reason} "" PARENT_SCOPE)
    return()
  endif()
  string(REGEX MATCH "[^\n]*([Ee]rror|[Uu]nsupported|not found|cannot|No such)[^\n]*" line "${output}")
  if(NOT line)
    string(REGEX MATCH "[^\n]+" line "${output}")
  endif()
  string(STRIP "${line}" line)
  if(NOT line AND status MATCHES "^[0-9]+$")
    set(line "it ends with status ${status} and says nothing")
  elseif(NOT line)
    set(line "${status}")
  endif()
  set(${reason} "${line}" PARENT_SCOPE)
endfunction()

# A macro: enable_language must be called from the file's own scope.
macro(byhand_find_cuda)
  set(BYHAND_HAVE_CUDA OFF)
  set(BYHAND_CUDA_REASON "")
  string(TOUPPER "${BYHAND_CUDA}" byhand_cuda_wish)
  if(NOT byhand_cuda_wish MATCHES "^(|AUTO|ON|OFF|TRUE|FALSE|YES|NO|1|0)$")
    message(FATAL_ERROR "BYHAND_CUDA must be ON, OFF or AUTO, got ${BYHAND_CUDA}")
  endif()

  if(byhand_cuda_wish MATCHES "^(OFF|FALSE|NO|0)$")
    set(BYHAND_CUDA_REASON "it was switched off (BYHAND_CUDA=OFF)")
  else()
    byhand_find_nvcc(byhand_nvcc)
    if(byhand_nvcc STREQUAL "")
      set(BYHAND_CUDA_REASON "nvcc was not found (set CUDACXX or put it on the PATH)")
      if(byhand_cuda_wish MATCHES "^(ON|TRUE|YES|1)$")
        message(FATAL_ERROR "BYHAND_CUDA=ON, but ${BYHAND_CUDA_REASON}")
      endif()
    else()
      byhand_try_nvcc("${byhand_nvcc}" byhand_cuda_error)
      if(byhand_cuda_error STREQUAL "")
        set(CMAKE_CUDA_COMPILER "${byhand_nvcc}")
        byhand_toolkit_flags("${byhand_nvcc}" byhand_cuda_flags)
        string(APPEND CMAKE_CUDA_FLAGS " ${byhand_cuda_flags}")
        set(CMAKE_CUDA_RUNTIME_LIBRARY Static)  # no CUDA library is needed to import the module
        enable_language(CUDA)
        set(BYHAND_HAVE_CUDA ON)
      else()
        set(BYHAND_CUDA_REASON "${byhand_nvcc} does not work: ${byhand_cuda_error}")
        if(NOT byhand_cuda_wish STREQUAL "AUTO")
          message(FATAL_ERROR "${BYHAND_CUDA_REASON}\n"
                  "Repair it, or build without CUDA: BYHAND_CUDA=OFF (or AUTO).")
        endif()
      endif()
    endif()
  endif()

  if(BYHAND_HAVE_CUDA)
    message(STATUS "CUDA kernels: ${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION}, "
                   "architectures ${CMAKE_CUDA_ARCHITECTURES}")
  else()
    message(STATUS "CUDA kernels: none, ${BYHAND_CUDA_REASON}")
  endif()
  # The reason becomes a Python string literal.
  string(REPLACE "\\" "/" BYHAND_CUDA_REASON "${BYHAND_CUDA_REASON}")
  string(REPLACE "\"" "'" BYHAND_CUDA_REASON "${BYHAND_CUDA_REASON}")
endmacro()

function(byhand_cuda_module name)
  byhand_toolkit_flags("${CMAKE_CUDA_COMPILER}" toolkit_flags)
  file(GLOB sources CONFIGURE_DEPENDS "${BYHAND_CUDA_ROOT}/core/*.cu"
       "${BYHAND_CUDA_ROOT}/core/*.cpp" "${BYHAND_CUDA_ROOT}/ops/*/*.cu")
  byhand_module(${name} csrc/bind.cpp ${sources})
  target_include_directories(${name} PRIVATE "${BYHAND_CUDA_ROOT}")
  target_include_directories(${name} SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  target_compile_definitions(${name} PRIVATE BYHAND_BACKEND_CUDA)
  if("${CMAKE_CUDA_ARCHITECTURES}" MATCHES "90a(-real)?(;|$)")  # Hopper code is built
    set_source_files_properties("${BYHAND_CUDA_ROOT}/core/gemm_hopper.cu" PROPERTIES
                                COMPILE_DEFINITIONS BYHAND_SM90A)
  endif()
  target_link_options(${name} PRIVATE ${toolkit_flags})
  # A kernel that spills registers is a bug, and the build fails. As in C++, fused multiply-adds are
  # written explicitly and the compiler must not add others, so that the same kernel gives the same
  # bits on the GPU and on the CPU.
  target_compile_options(${name} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror=all-warnings \
-Xptxas --warn-on-spills,-Werror --fmad=false -Xcompiler -Wall,-Wextra -lineinfo>")
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13.0)
    # Line tables triple the size of the machine code; compressed they cost little.
    target_compile_options(${name} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:--compress-mode=size>")
  endif()
  set_target_properties(${name} PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON
                        CUDA_EXTENSIONS OFF CUDA_VISIBILITY_PRESET hidden)
endfunction()
