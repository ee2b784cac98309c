//! Every limit of a plan in one place: what `decode` and `check` refuse before anything is allocated for it.

/// Most bytes of the message section of a plan file.
pub const MAX_MESSAGE_BYTES: u64 = 64 << 20;
/// Most bytes that the decoded messages may take on the heap, counted before decoding.
pub const MAX_DECODED_BYTES: u64 = 512 << 20;
/// Most bytes of the weight section.
pub const MAX_WEIGHT_BYTES: u64 = 1 << 42;
/// Most devices.
pub const MAX_DEVICES: usize = 1024;
/// Most queues, copy queues included.
pub const MAX_QUEUES: usize = 4096;
/// Most steps over all queues.
pub const MAX_STEPS: usize = 1 << 18;
/// Most cells (steps times queues) of the happens-before table, 4 bytes each.
pub const MAX_CLOCK_CELLS: usize = 1 << 25;
/// Most waits of one step.
pub const MAX_WAITS: usize = 4096;
/// Most values.
pub const MAX_VALUES: usize = 1 << 19;
/// Most kernels.
pub const MAX_KERNELS: usize = 1 << 18;
/// Most symbols.
pub const MAX_SYMBOLS: usize = 256;
/// Most inputs, and most outputs, of the model.
pub const MAX_PORTS: usize = 1 << 14;
/// Most dimensions of a value.
pub const MAX_RANK: usize = 16;
/// Most items of one size expression.
pub const MAX_DIM_ITEMS: usize = 1024;
/// Largest dimension.
pub const MAX_DIM: i64 = 1 << 40;
/// Most bytes of one value.
pub const MAX_VALUE_BYTES: u64 = 1 << 40;
/// Most bytes of one device's arena.
pub const MAX_ARENA_BYTES: u64 = 1 << 40;
/// Most worker threads of one device.
pub const MAX_THREADS: u32 = 4096;
/// Offsets of values in an arena and in the weight section are multiples of this many bytes (a cache line).
pub const VALUE_ALIGN_BYTES: u64 = 64;
/// Alignment that binders use: it also satisfies the storage-binding offsets of GPUs (256 bytes in WebGPU).
pub const ARENA_ALIGN_BYTES: u64 = 256;
/// The weight section starts at a multiple of this many bytes of the file (a memory page).
pub const SECTION_ALIGN_BYTES: u64 = 4096;
