// An emulation of Hopper's bulk tensor copies, mbarriers and wgmma, as the PTX manual describes
// them: boxes with the 128-byte swizzle and zeros outside of the matrix, phases that end by
// arrivals and bytes, and products whose factors are located by the bits of their descriptors, so
// that a wrong descriptor gives wrong numbers. Copies and products are performed either when they
// are issued or when they are waited for. With early copies the products are late and the other way
// round, so that a missing wait between them is noticed.
//
// It follows the manual: the meaning of descriptors and swizzle has to be confirmed on a GPU. Not
// emulated: clusters of blocks, the order between the asynchronous and the ordinary view of shared
// memory (fence.proxy.async), and the numbers of registers.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "emulator/bfloat16.h"
#include "emulator/block.h"

namespace byhand::emulator {

// Its state is kept by the block, from open_barrier on; the object itself is only its address.
struct PhaseBarrier {
    std::uint64_t unused;
};

struct TensorMap {
    const bf16* data;
    int rows, cols, box_rows;
};

TensorMap map_matrix(const char* name, const bf16* data, int rows, int cols, int box_rows);

class Hopper {
  public:
    struct Copy {
        void* to;
        TensorMap map;
        int row, col;
    };
    struct Product {
        float* d[32];  // the 64 sums of each lane; when issued, only d[0] is set, to the caller's
        std::uint64_t left, right;
        bool left_across, right_across;
        Where where;
    };

    explicit Hopper(Block& block) : block_(block) {}
    void begin(unsigned warps);
    std::string left_open() const;            // what was not waited for at the end; or empty
    void require_no_products(unsigned warp);  // fails if the warp has not waited for products

    void open(PhaseBarrier& b, int arrivals, Where where);
    void arrive(const char* what, PhaseBarrier& b, int bytes, Where where);
    void wait(PhaseBarrier& b, unsigned parity, Where where);
    void copy(const Copy& copy, PhaseBarrier& b, Where where);

    // Each warp of a warpgroup computes its own rows of a product.
    std::uint64_t operand(const void* shared, int leading, int stride, Where where);
    void multiply(const Product& mine);
    void open_products(Where where);
    void close_products(Where where);
    void wait_products(const char* what, int open, bool all, Where where);

  private:
    struct State {
        int arrivals = 0, missing = 0;
        std::int64_t bytes = 0;  // expected, and not yet copied
        unsigned phase = 0;
        Block::Queue waiting;
        std::vector<Copy> copies;  // issued, and not yet performed
        bool unseen = false;       // whether boxes were copied since the last wait
        Edge issued, ended[2];
    };
    struct Warp {
        std::vector<Product> products;    // issued, and not yet performed
        std::vector<std::size_t> groups;  // the size of each closed group, oldest first
        std::size_t issued = 0;           // since the last group was closed
        bool open = false;
        Edge done;
    };

    State& state(const char* what, PhaseBarrier& b, Where where);
    void end_phase(State& s);
    void perform(const Copy& copy);
    void land(State& s);  // performs the oldest late copy
    void perform(const Product& product, unsigned warp);
    void read(float* to, std::uint64_t descriptor, bool across, int first, int count, Where where);
    const unsigned char* chunk(unsigned address, Where where);

    Block& block_;
    std::unordered_map<const void*, State> barriers_;
    std::vector<Warp> warps_;
};

}  // namespace byhand::emulator
