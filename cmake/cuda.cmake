# The CUDA part of the build. Included before project(): the architectures must be known before the
# CUDA language is enabled, because the default of older CMake (compute_52) is gone from CUDA 13.
#
#   byhand_find_cuda()        after project(): sets BYHAND_HAVE_CUDA and BYHAND_CUDA_REASON
#   byhand_cuda_module(name)  the kernels of cuda/ behind the registry of csrc/bind.cpp
#
# -DBYHAND_CUDA=
#   AUTO   CUDA where a GPU with its driver and a working nvcc are found; else the reason is recorded
#   ON     CUDA or an error
#   OFF    no CUDA
set(BYHAND_CUDA "AUTO" CACHE STRING "build the CUDA kernels: AUTO, ON or OFF (see cmake/cuda.cmake)")
set_property(CACHE BYHAND_CUDA PROPERTY STRINGS AUTO ON OFF)

# The capabilities of this machine's GPUs, such as 9.0, as the driver's tool prints them; or empty
# and why not.
function(byhand_find_gpus capabilities reason)
  set(${capabilities} "" PARENT_SCOPE)
  find_program(smi nvidia-smi PATHS /usr/lib/wsl/lib NO_CACHE)
  if(NOT smi)
    set(${reason} "no NVIDIA driver was found (nvidia-smi is missing)" PARENT_SCOPE)
    return()
  endif()
  execute_process(COMMAND "${smi}" --query-gpu=compute_cap --format=csv,noheader
                  RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output TIMEOUT 30)
  string(REGEX MATCHALL "[0-9]+[.][0-9]" found "${output}")
  if(NOT status EQUAL 0 OR NOT found)
    string(REGEX MATCH "[^\n]+" line "${output}")
    set(${reason} "nvidia-smi finds no GPU (${line})" PARENT_SCOPE)
    return()
  endif()
  list(REMOVE_DUPLICATES found)
  foreach(capability IN LISTS found)
    if(capability VERSION_LESS 8.0)
      set(${reason} "a GPU of capability ${capability} is too old, the kernels need 8.0" PARENT_SCOPE)
      return()
    endif()
  endforeach()
  set(${capabilities} "${found}" PARENT_SCOPE)
  set(${reason} "" PARENT_SCOPE)
endfunction()

# Machine code for the GPUs of this machine. Where there are none: for Ampere and Hopper, and PTX,
# which the driver compiles for later GPUs.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  byhand_find_gpus(capabilities BYHAND_NO_GPU)
  set(architectures "")
  foreach(capability IN LISTS capabilities)
    string(REPLACE "." "" number "${capability}")
    if(number EQUAL 90)
      set(number 90a)  # with the instructions that only Hopper has
    endif()
    list(APPEND architectures "${number}-real")
  endforeach()
  if(NOT architectures)
    set(architectures 80-real 90a-real 80-virtual)
  endif()
  set(CMAKE_CUDA_ARCHITECTURES "${architectures}" CACHE STRING "CUDA architectures")
  set(BYHAND_NO_GPU "${BYHAND_NO_GPU}" CACHE INTERNAL "why AUTO builds no CUDA, if it does not")
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
  if(byhand_cuda_wish MATCHES "^(OFF|FALSE|NO|0)$")
    set(BYHAND_CUDA_REASON "it was switched off (BYHAND_CUDA=OFF)")
  elseif(byhand_cuda_wish STREQUAL "AUTO" AND NOT "${BYHAND_NO_GPU}" STREQUAL "")
    set(BYHAND_CUDA_REASON "${BYHAND_NO_GPU}; BYHAND_CUDA=ON builds them all the same")
  elseif(byhand_cuda_wish MATCHES "^(AUTO|ON|TRUE|YES|1)$")
    byhand_find_nvcc(byhand_nvcc)
    if(byhand_nvcc STREQUAL "")
      set(BYHAND_CUDA_REASON "nvcc was not found (set CUDACXX or put it on the PATH)")
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
      endif()
    endif()
    if(NOT BYHAND_HAVE_CUDA AND NOT byhand_cuda_wish STREQUAL "AUTO")
      message(FATAL_ERROR "BYHAND_CUDA=ON, but ${BYHAND_CUDA_REASON}")
    endif()
  else()
    message(FATAL_ERROR "BYHAND_CUDA must be AUTO, ON or OFF, got ${BYHAND_CUDA}")
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
