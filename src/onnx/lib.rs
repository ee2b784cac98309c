//! ONNX in and out.
//!
//! **Contract.** `load` gives a graph or everything that is wrong with the file; `save` gives a file that ONNX's
//! own checker accepts and other engines run to the same results.
//!
//! **Invariants.** Hostile bytes never reach the protobuf parser: it sees only what the wire scan wrote. Weights
//! are never copied on the way in. Nothing outside the model's folder is read. No recursion is as deep as
//! the input. The same graph gives the same bytes.
//!
//! **Reading order.** In: `wire` (with `schema`, `limits`), `import`, `importer`, `order`, `inputs`, `inline`,
//! `bodies` (with `free`, `carried`), `call`, `adapt`, `tensors` (with `packed`, `sparse`), `external`. Out:
//! `export`, `writer`, `sizes`, `lower`, `kept`, `encode`. Values in files: `values`.

mod adapt;
mod attrs;
mod batched;
mod bodies;
mod call;
mod carried;
mod contrib;
mod dtypes;
mod encode;
mod export;
mod external;
mod free;
mod history;
mod import;
mod importer;
mod inline;
mod inputs;
mod kept;
mod known;
mod letters;
pub mod limits;
mod lower;
mod map;
mod order;
mod packed;
mod schema;
mod sizes;
mod sparse;
mod tensors;
mod training;
mod typing;
mod values;
mod wire;
mod writer;

pub use encode::{MAX_MESSAGE_BYTES, MIN_EXTERNAL_BYTES};
pub use export::{ExportOptions, save, save_file};
pub use import::{Imported, input_names, load, load_bytes, port_kinds};
pub use kept::Kept;
pub use known::accepts;
pub use limits::{Limits, Options};
pub use tensors::{tensor_from_pb, tensor_to_pb};
pub use values::{PortKind, Ports, datum_from_pb, datum_to_pb};
