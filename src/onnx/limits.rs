//! Limits of what is read, and the options of an import. Every limit is checked before anything of that size
//! is allocated.

use partita_ir::Tensor;
use std::collections::BTreeMap;

/// Largest file that is mapped, in bytes. Weights are not copied, so this only guards arithmetic.
pub const MAX_MODEL_BYTES: u64 = 1 << 40;
/// Largest structure (everything but weights) that is handed to the protobuf parser, in bytes.
pub const MAX_STRUCTURE_BYTES: usize = 1 << 30;
/// Deepest nesting of protobuf messages; the parser itself stops at 100.
pub const MAX_DEPTH: usize = 96;
/// Most protobuf messages of any kind in a file: one takes about 200 bytes once parsed.
pub const MAX_MESSAGES: usize = 1 << 23;
/// Most nodes in a file, subgraphs and functions included, and after functions are inlined.
pub const MAX_NODES: usize = 1 << 20;
/// Most tensors in a file.
pub const MAX_TENSORS: usize = 1 << 20;
/// Longest name of a value, node, operator, domain or attribute, in bytes.
pub const MAX_NAME_BYTES: usize = 1 << 12;
/// Deepest nesting of bodies and inlined branches while a model is built; functions in bodies may call on.
pub const MAX_NESTING: usize = 48;
/// Rounds after which a type that a loop carries is taken to have no fixed shape.
pub const MAX_ROUNDS: usize = 4;
/// Deepest chain of functions calling functions.
pub const MAX_CALL_DEPTH: usize = 64;
/// Most elements of a tensor; its bytes are counted as well, in full width.
pub const MAX_ELEMENTS: u64 = 1 << 40;
/// Most bytes of one list or text in an attribute.
pub const MAX_ATTRIBUTE_BYTES: usize = 1 << 28;
/// Most bytes of the dense form of a sparse tensor.
pub const MAX_DENSE_BYTES: usize = 1 << 29;
/// Deepest nesting of sequences, optionals and maps in types and values.
pub const MAX_FORM_DEPTH: usize = 8;
/// Most diagnostics listed for one model.
pub const MAX_DIAGS: usize = 100;

/// Limits of one import; `Default` gives the constants of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the file.
    pub model_bytes: u64,
    /// Bytes of the structure without weights.
    pub structure_bytes: usize,
    /// Nested messages.
    pub depth: usize,
    /// Messages of any kind.
    pub messages: usize,
    /// Nodes.
    pub nodes: usize,
    /// Tensors.
    pub tensors: usize,
    /// Bytes of a name.
    pub name_bytes: usize,
    /// Bytes of the dense form of one sparse tensor.
    pub dense_bytes: usize,
    /// Elements of a tensor.
    pub elements: u64,
    /// Bytes of a list or text in an attribute.
    pub attribute_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            model_bytes: MAX_MODEL_BYTES,
            structure_bytes: MAX_STRUCTURE_BYTES,
            depth: MAX_DEPTH,
            messages: MAX_MESSAGES,
            nodes: MAX_NODES,
            tensors: MAX_TENSORS,
            name_bytes: MAX_NAME_BYTES,
            dense_bytes: MAX_DENSE_BYTES,
            elements: MAX_ELEMENTS,
            attribute_bytes: MAX_ATTRIBUTE_BYTES,
        }
    }
}

/// How a model is imported.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub limits: Limits,
    /// Values that fix symbolic dimensions, by name.
    pub dims: BTreeMap<String, i64>,
    /// Graph inputs whose value is known now, by name: they become constants. For models that compute
    /// axes or shapes from inputs.
    pub inputs: BTreeMap<String, Tensor>,
    /// Files of weights may have other names (hard links), which may lie outside the model's folder.
    pub allow_hard_links: bool,
    /// Weights may be links from `snapshots/HASH/` into the `blobs` folder of the same download cache, as the Hugging
    /// Face Hub lays it out.
    pub allow_hf_cache: bool,
}
