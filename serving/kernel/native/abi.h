// What Python hands over, field by field as serving/kernel/structs.py declares it: every field has eight bytes.
#pragma once
#include <cstdint>

typedef int64_t i64;
typedef uint16_t bf16;  // the upper half of a float32

enum { QKV, PROJ, FC1, FC2, MAPS };
enum Activation { GELU, GELU_TANH, QUICK_GELU, RELU };
enum Input { NORMED, RESIDUAL, OUTPUT, SUM };

// A linear map of the backbone: out and in are multiples of 32, the weight lies as `pack_weight` packs it.
struct Linear { const bf16* weight; const float* bias; i64 out, in; };

// A layer norm; without a weight it is the backbone's.
struct Norm { const float *weight, *bias; };

// One block of the backbone; null where it has no norm of queries and keys, or no layer scale.
struct Block { Linear maps[MAPS]; Norm norms[2]; Norm query, key; const float* scales[2]; };

// y = out_scale * (W (in_scale * x)) + bias + b (a x); `bias` contains the backbone's, scaled; null: as without the task.
struct Delta { const bf16 *a, *b; i64 rank; const float *bias, *out_scale, *in_scale; };

// x += act(conv(act(v down + down_bias))) up + up_bias; conv [3][3][width in][width out] in steps of 16, null without.
struct Bottleneck {
  const bf16* down; const float* down_bias; const bf16* up; const float* up_bias;
  i64 width; const float *conv, *conv_bias; i64 input, activation;
};

// What a task keeps of a block: each head, panel of 32 outputs of qkv, slice of 32 inputs of proj, and of the hidden
// layer, has its place in the task's own arrays, or -1 where all of it is left out. Null: all are kept.
struct Kept { const i64 *heads, *qkv, *proj, *hidden; };
typedef const i64* Kept::*Side;

// Which of the tokens before a block stay, null: all of them; and how many it has, 0: as many as an image has.
struct Tokens { const i64* places; i64 count; };

// What a task changes in one block.
struct Forms { Delta maps[MAPS]; Norm norms[2]; Bottleneck beside[2]; Kept kept; Tokens tokens; };

// Where a task leaves a row: after `depth` blocks; logits (classes) = weight (classes, dim) . pool(norm(row)) + bias.
// Without a norm the tokens are pooled as they are.
struct Exit { i64 depth; Norm norm; const bf16* weight; const float* bias; i64 classes; float* logits; };

// A row of a batch: its forms by block (null: the backbone alone), its exits by depth, its place in x, and its image.
struct Row { const Forms* forms; const Exit* exits; i64 exit_count, place, image; };

struct Model {
  i64 dim, heads, hidden, tokens, prefix, grid_height, grid_width, blocks, activation;
  double norm_eps, query_key_eps, last_eps, attention_scale;
  const Block* block;
  Linear patch; i64 patch_height, patch_width; const float* position;  // position (tokens, dim): what the stem adds
  Norm before;          // of the stem's tokens, or null
  Norm pooled;          // after pooling, or null
  i64 average;          // pooled over the patches, or else the first token
};

// Blocks `from` to `to` of rows, the deepest first. x (places, tokens, dim) is read where images (places, 3, height,
// width) are null, and written where a row goes on; of a row of fewer tokens, the first ones of its place are. `slices`:
// of 32 ranks, the most that any form of the rows has.
struct Walk {
  const Model* model; const Row* rows; i64 row_count; bf16* x; const float* images; i64 from, to, slices;
};

// One array of a task, as it is packed: A (rank, in), B (out, rank), bf16 numbers, float32 numbers as they are or rounded
// to bf16, with zeros up to `columns`, or integers. `numbers`: how they are at `from`; `to`: its place in the memory.
enum PieceKind { PIECE_A, PIECE_B, PIECE_NUMBERS, PIECE_FLOATS, PIECE_ROUNDED, PIECE_INTEGERS };
enum Numbers { IN_BF16, IN_FLOAT32, IN_FLOAT16 };
struct Piece { i64 kind; const void* from; i64 numbers, rows, columns; double scale; i64 to; };
