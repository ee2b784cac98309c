//! Calls of library kernels, before they are placed.

use partita_ir::{Dim, Type, ValueId};
use partita_plan::{ElementType, Kernel};

/// An operand or result: a graph value, seen in its own shape or in another one of the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    pub value: ValueId,
    /// The shape the kernel sees, when it is not the value's own.
    pub view: Option<Vec<Dim>>,
}

impl Arg {
    /// The value in its own shape.
    pub fn of(value: ValueId) -> Self {
        Self { value, view: None }
    }
}

/// One kernel launch: what, on which values.
#[derive(Clone, Debug)]
pub struct Call {
    pub kernel: Kernel,
    /// `None` for omitted operands.
    pub operands: Vec<Option<Arg>>,
    pub results: Vec<Arg>,
}

/// What a region becomes.
#[derive(Clone, Debug, Default)]
pub struct Lowered {
    /// Launches in order. Values between them that are not outputs of the region are its scratch.
    pub calls: Vec<Call>,
    /// Results that share the bytes of another value: (result, source).
    pub aliases: Vec<(ValueId, ValueId)>,
}

/// Whether a device has a kernel for these element types; omitted operands are left out.
pub type Supports = fn(kernel: &Kernel, inputs: &[ElementType], outputs: &[ElementType]) -> bool;

/// Packs a constant operand the way the device's kernel reads it: layout name and bytes, or `None` when the
/// kernel reads it row-major.
pub type Pack = fn(
    kernel: &Kernel,
    operand: usize,
    bytes: &[u8],
    dtype: ElementType,
    shape: &[usize],
) -> Option<(String, Vec<u8>)>;

/// What a kind of device can run.
#[derive(Clone, Copy)]
pub struct Target {
    /// Driver name, as in machine files.
    pub driver: &'static str,
    pub supports: Supports,
    pub pack: Pack,
    /// Whether its `conv`, `conv_transpose` and `pool` take the channels last (parameter `layout`).
    pub channels_last: bool,
    /// Whether attention reads and writes heads where other kernels leave and want them.
    pub heads_in_place: bool,
}

impl Call {
    /// Whether `target` can run the call; `types` gives the type of a value.
    pub fn runs_on<'a>(&self, target: &Target, types: &dyn Fn(ValueId) -> &'a Type) -> bool {
        let dtype = |a: &Arg| types(a.value).dtype;
        let inputs: Vec<ElementType> = self.operands.iter().flatten().map(dtype).collect();
        let outputs: Vec<ElementType> = self.results.iter().map(dtype).collect();
        (target.supports)(&self.kernel, &inputs, &outputs)
    }
}
