# How every native module of byhand is compiled: the package's own and those of the tests.
#
#   byhand_compiled(target)         the options of every library
#   byhand_module(name sources...)  a Python module
set(BYHAND_SANITIZE "" CACHE STRING
    "sanitizers for the native modules, for example address,undefined or thread")
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)  # modules must not share inline functions
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
# pybind11 would optimise at link time. That doubles the time of a build, and the kernels are not
# faster: each is compiled as a whole with the header-only code that it calls.
set(CMAKE_INTERPROCEDURAL_OPTIMIZATION OFF)

if(MSVC)
  message(FATAL_ERROR "The kernels need GCC or Clang; on Windows those of MinGW-w64: "
          "set CC=gcc, CXX=g++ and CMAKE_GENERATOR=Ninja")
endif()
if(MINGW)
  add_link_options(-static)  # the compiler's libraries; Python's is a DLL all the same
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC aligns the stack of Windows to 16 bytes, and yet stores wide vectors there with
    # instructions for aligned addresses: https://gcc.gnu.org/bugzilla/show_bug.cgi?id=54412
    add_compile_options(-Wa,-muse-unaligned-vector-move)
  endif()
endif()

find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
find_package(pybind11 CONFIG REQUIRED)
find_package(Threads REQUIRED)

get_filename_component(BYHAND_SOURCES "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
set(BYHAND_CSRC "${BYHAND_SOURCES}/csrc")

# A new file in these folders is found and compiled by the next build.
file(GLOB BYHAND_OPS CONFIGURE_DEPENDS "${BYHAND_CSRC}/ops/*/*.cpp")

# contracts.h, for csrc/bind.cpp: the header beside the C++ body of each op declares its kernels.
# Other headers in these folders are parts of a body.
set(contracts "// The contract of every op. Written by CMake.\n#pragma once\n\n")
foreach(body IN LISTS BYHAND_OPS)
  string(REGEX REPLACE "[.]cpp$" ".h" contract "${body}")
  file(RELATIVE_PATH include "${BYHAND_CSRC}" "${contract}")
  if(NOT EXISTS "${contract}")
    message(FATAL_ERROR "${body} has no contract: csrc/${include} is missing")
  endif()
  string(APPEND contracts "#include \"${include}\"\n")
endforeach()
file(CONFIGURE OUTPUT generated/contracts.h CONTENT "${contracts}" @ONLY)

function(byhand_compiled target)
  target_include_directories(${target} PRIVATE "${BYHAND_CSRC}" "${PROJECT_BINARY_DIR}/generated")
  # Fused multiply-adds are written explicitly; compilers must not add others, so that all of them
  # give the same bits.
  target_compile_options(${target} PRIVATE
                         $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -ffp-contract=off>)
  if(BYHAND_SANITIZE)
    # At -O2 some templates take minutes to compile with the checks, and with -g half as long again;
    # -g1 has the line numbers too.
    target_compile_options(${target} PRIVATE
                           $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${BYHAND_SANITIZE}
                           -fno-sanitize-recover=all -fno-omit-frame-pointer -g1 -O1>)
    target_link_options(${target} PRIVATE -fsanitize=${BYHAND_SANITIZE})
  endif()
endfunction()

function(byhand_module name)
  pybind11_add_module(${name} MODULE ${ARGN})
  byhand_compiled(${name})
  target_link_libraries(${name} PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
  target_compile_definitions(${name} PRIVATE BYHAND_MODULE=${name})
endfunction()
