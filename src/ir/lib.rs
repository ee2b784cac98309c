//! What a graph *is*: element types, symbolic dimensions, tensors, operators as rows, the graph over
//! petgraph, inference, verification, the text form and the reference interpreter.
//!
//! **Contract.** Everything here is a value or a pure function of values.
//!
//! **Invariants.** No operator is named. No device, no file, no environment, no protobuf of ONNX. petgraph does
//! not leak out of `graph`. Input never panics and no input makes a recursion as deep as itself.
//!
//! **Reading order.** `dim`, `tensor`, `op` (the row that says everything about an operator), `graph`,
//! `builder` (nodes with inferred types), `verify`, `interp`, `text`.

pub mod attr;
pub mod builder;
pub mod data;
pub mod diag;
pub mod dim;
pub mod graph;
pub mod interp;
pub mod op;
pub mod region;
pub mod text;
pub mod tile;
pub mod types;
pub mod verify;
pub mod work;

pub use attr::{Attr, Attrs};
pub use builder::Builder;
pub use diag::{Diag, Place};
pub use dim::Dim;
pub use graph::{Graph, NodeId, Source, ValueId};
pub use op::{OpDef, OpRef, Registry};
pub use partita_plan::budget::{Budget, RunLimits};
pub use partita_plan::letters;
pub use partita_plan::{Bytes, Datum, ElementType as DType, Tensor, tensor};
pub use region::{Region, RegionKind, Regions};
pub use types::{Content, Form, Type};
pub use work::{Work, WorkKind};
