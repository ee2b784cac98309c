//! Models that are not static as a whole: control flow, sequences, text, sizes that depend on data.
//!
//! Such a model is a program over *slots*, which hold values of any kind on the host. Its items are static plans
//! (what could be planned) and operators evaluated on the host (what could not). Bodies of control flow are blocks;
//! an item runs only blocks behind its own, so nothing runs for ever but loops, which are counted.

use crate::{DimExpr, Kernel, Plan};
use prost::Message;

/// A program; block 0 is the model.
#[derive(Clone, PartialEq, Message)]
pub struct Program {
    /// Static parts. Their weights lie in the section of the whole plan.
    #[prost(message, repeated, tag = "1")]
    pub plans: Vec<Plan>,
    /// The model and the bodies in it.
    #[prost(message, repeated, tag = "2")]
    pub blocks: Vec<Block>,
    /// Values known ahead.
    #[prost(message, repeated, tag = "3")]
    pub constants: Vec<Constant>,
    /// Names of sizes, as expressions number them.
    #[prost(string, repeated, tag = "4")]
    pub symbols: Vec<String>,
}

/// Items in order, over slots of their own.
#[derive(Clone, PartialEq, Message)]
pub struct Block {
    /// Name of the graph.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Number of slots.
    #[prost(uint32, tag = "2")]
    pub slots: u32,
    /// Where inputs go.
    #[prost(message, repeated, tag = "3")]
    pub inputs: Vec<SlotPort>,
    /// Where outputs come from.
    #[prost(message, repeated, tag = "4")]
    pub outputs: Vec<SlotPort>,
    /// Slots that are filled from the start.
    #[prost(message, repeated, tag = "5")]
    pub constants: Vec<ConstantUse>,
    /// What runs.
    #[prost(message, repeated, tag = "6")]
    pub items: Vec<Item>,
}

/// What kind of value a port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PortForm {
    /// A tensor of `dtype` and `shape`.
    Tensor = 0,
    /// A tensor of `dtype`.
    Unranked = 1,
    /// Any value.
    Any = 2,
    /// A sequence, optional or map: anything but a tensor.
    Other = 3,
}

/// An input or output of a block.
#[derive(Clone, PartialEq, Message)]
pub struct SlotPort {
    /// Name in the model.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The slot.
    #[prost(uint32, tag = "2")]
    pub slot: u32,
    /// Kind of value.
    #[prost(enumeration = "PortForm", tag = "3")]
    pub form: i32,
    /// Element type of a tensor.
    #[prost(enumeration = "crate::ElementType", tag = "4")]
    pub dtype: i32,
    /// Dimensions of a tensor of known rank.
    #[prost(message, repeated, tag = "5")]
    pub shape: Vec<DimExpr>,
    /// The type as text.
    #[prost(string, tag = "6")]
    pub text: String,
}

/// A constant in a slot.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ConstantUse {
    /// The slot.
    #[prost(uint32, tag = "1")]
    pub slot: u32,
    /// Index into `Program::constants`.
    #[prost(uint32, tag = "2")]
    pub constant: u32,
}

/// A tensor in the weight section, or of text.
#[derive(Clone, PartialEq, Message)]
pub struct Constant {
    /// Element type.
    #[prost(enumeration = "crate::ElementType", tag = "1")]
    pub dtype: i32,
    /// Dimensions.
    #[prost(uint64, repeated, tag = "2")]
    pub shape: Vec<u64>,
    /// First byte in the weight section.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    /// The elements of text.
    #[prost(string, repeated, tag = "4")]
    pub strings: Vec<String>,
}

/// A static part or an operator on the host.
#[derive(Clone, PartialEq, Message)]
pub struct Item {
    /// Name for messages.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Index into `Program::plans`; without meaning when there is a kernel.
    #[prost(uint32, tag = "2")]
    pub plan: u32,
    /// The operator to evaluate on the host.
    #[prost(message, optional, tag = "3")]
    pub kernel: Option<Kernel>,
    /// Slots read; `NO_VALUE` for an omitted operand.
    #[prost(uint32, repeated, tag = "4")]
    pub inputs: Vec<u32>,
    /// Slots written.
    #[prost(uint32, repeated, tag = "5")]
    pub outputs: Vec<u32>,
    /// Blocks the operator runs.
    #[prost(message, repeated, tag = "6")]
    pub bodies: Vec<BodyUse>,
    /// Sizes that the results tell.
    #[prost(message, repeated, tag = "7")]
    pub binds: Vec<Bind>,
    /// Why the host evaluates it; empty for a part.
    #[prost(string, tag = "8")]
    pub why: String,
}

/// A body of an operator.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BodyUse {
    /// The attribute that holds it.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Index into `Program::blocks`, larger than that of the block it is used in.
    #[prost(uint32, tag = "2")]
    pub block: u32,
}

/// A size that is an axis of a result.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Bind {
    /// Index into `Program::symbols`.
    #[prost(uint32, tag = "1")]
    pub symbol: u32,
    /// Result of the item.
    #[prost(uint32, tag = "2")]
    pub output: u32,
    /// Axis of the result.
    #[prost(uint32, tag = "3")]
    pub axis: u32,
}

impl Plan {
    /// The static plans: those of the program, or the plan itself.
    pub fn parts(&self) -> &[Plan] {
        self.program.as_ref().map_or(std::slice::from_ref(self), |p| &p.plans)
    }
}
