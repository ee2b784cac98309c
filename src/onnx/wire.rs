//! The wire scan: a bounded, iterative walk over protobuf bytes that runs before the parser.
//!
//! Why: the parser recurses into unknown groups without a limit (RUSTSEC-2024-0437) and copies weights. The scan
//! refuses groups, lying lengths and deep nesting, and writes a *new* message in which every weight is replaced
//! by a reference into the file. The parser sees only bytes written here, so the advisory cannot be reached.
//!
//! The reference is `TensorProto.segment` (begin and end index into `Scanned::lifts`). No exporter uses that
//! field, and the scan refuses a file that has it, so a reference cannot be forged.

use crate::limits::Limits;
use crate::schema::{Field, Msg, Weights, field};
use partita_ir::{Bytes, Diag};

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LEN: u8 = 2;
const FIXED32: u8 = 5;
/// Bytes reserved for a length that is known only when its message ends.
const LENGTH_BYTES: usize = 5;
/// Field of `TensorProto` that carries the reference.
const SEGMENT_FIELD: u32 = 3;

/// Weights that stay in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lift {
    pub(crate) weights: Weights,
    /// Bytes from the start of the file.
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

/// A message without its weights, and where these are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scanned {
    pub(crate) structure: Vec<u8>,
    pub(crate) lifts: Vec<Lift>,
}

/// Scans `bytes`, which must be one message of type `root`.
///
/// # Errors
/// `I004` broken encoding, `I005` groups, `I006` nesting, `I007` too large, `I008` names and text,
/// `I009` a field that may occur once occurs twice. All carry the byte offset.
pub(crate) fn scan(bytes: &[u8], root: Msg, limits: &Limits) -> Result<Scanned, Diag> {
    let mut scan = Scan::over(bytes, root, limits);
    while let Some(frame) = scan.stack.last() {
        if scan.at == frame.end { scan.close() } else { scan.step(frame.msg, frame.end)? }
    }
    Ok(scan.out)
}

/// A message that is being walked.
struct Frame {
    msg: Msg,
    /// Where it ends in the input.
    end: usize,
    /// Where its length goes in the output; the root has none.
    length_at: Option<usize>,
    first_lift: usize,
    /// Bit per field number below 64 that may occur once and did.
    seen: u64,
}

impl Frame {
    fn new(msg: Msg, end: usize, length_at: Option<usize>, first_lift: usize) -> Self {
        Self { msg, end, length_at, first_lift, seen: 0 }
    }
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    limits: &'a Limits,
    out: Scanned,
    stack: Vec<Frame>,
    n_messages: usize,
    n_nodes: usize,
    n_tensors: usize,
}

impl<'a> Scan<'a> {
    fn over(bytes: &'a [u8], root: Msg, limits: &'a Limits) -> Self {
        Scan {
            bytes,
            at: 0,
            limits,
            out: Scanned::default(),
            stack: vec![Frame::new(root, bytes.len(), None, 0)],
            n_messages: 0,
            n_nodes: 0,
            n_tensors: 0,
        }
    }

    /// Reads one field of the innermost message.
    fn step(&mut self, msg: Msg, end: usize) -> Result<(), Diag> {
        let start = self.at;
        let (number, wire) = self.tag(end)?;
        if wire == LEN {
            let len = self.length(end)?;
            return self.delimited(msg, number, len, start);
        }
        let value_at = self.at;
        match wire {
            VARINT => drop(self.varint(end)?),
            FIXED64 => self.skip(8, end)?,
            FIXED32 => self.skip(4, end)?,
            3 | 4 => {
                let text = "the file uses protobuf groups, which no ONNX file has";
                return Err(letter("I005", text, start, NOT_ONNX));
            }
            _ => return Err(letter("I004", format!("wire type {wire} does not exist"), start, NOT_ONNX)),
        }
        self.write_tag(number, wire);
        self.copy(value_at, self.at)
    }

    fn delimited(&mut self, msg: Msg, number: u32, len: usize, start: usize) -> Result<(), Diag> {
        match field(msg, number) {
            Field::Many(inner) => self.open(inner, number, len),
            Field::One(inner) => {
                self.only_once(number, start)?;
                self.open(inner, number, len)
            }
            Field::Weights(weights) => self.lift(weights, len),
            Field::Reserved => {
                let text = "the tensor is split into segments, which is not supported";
                Err(letter("U003", text, start, "store the tensor in one piece"))
            }
            Field::Name if len > self.limits.name_bytes => {
                let text = format!("a name has {len} bytes, at most {} are read", self.limits.name_bytes);
                Err(letter("I008", text, start, "give it a shorter name"))
            }
            Field::Name | Field::Text => {
                if std::str::from_utf8(&self.bytes[self.at..self.at + len]).is_err() {
                    return Err(letter("I008", "a name or text is not UTF-8", start, NOT_ONNX));
                }
                self.plain(number, len)
            }
            Field::Plain if msg == Msg::Attribute && len > self.limits.attribute_bytes => {
                let limit = self.limits.attribute_bytes;
                let text = format!("an attribute has {len} bytes, at most {limit} are read");
                Err(letter("I007", text, start, "raise the limit"))
            }
            Field::Plain => self.plain(number, len),
        }
    }

    /// Starts a nested message.
    fn open(&mut self, msg: Msg, number: u32, len: usize) -> Result<(), Diag> {
        if self.stack.len() > self.limits.depth {
            let text = format!("messages nest more than {} deep", self.limits.depth);
            return Err(letter("I006", text, self.at, "flatten nested If and Loop bodies"));
        }
        self.count(msg)?;
        self.write_tag(number, LEN);
        let length_at = self.out.structure.len();
        self.out.structure.extend([0; LENGTH_BYTES]);
        self.bounded()?;
        let first_lift = self.out.lifts.len();
        self.stack.push(Frame::new(msg, self.at + len, Some(length_at), first_lift));
        Ok(())
    }

    /// Ends the innermost message: writes its reference and its length.
    fn close(&mut self) {
        let Some(frame) = self.stack.pop() else { return };
        if frame.msg == Msg::Tensor && self.out.lifts.len() > frame.first_lift {
            self.write_segment(frame.first_lift, self.out.lifts.len());
        }
        if let Some(at) = frame.length_at {
            let mut len = self.out.structure.len() - at - LENGTH_BYTES;
            for (i, byte) in self.out.structure[at..at + LENGTH_BYTES].iter_mut().enumerate() {
                // Padded to a fixed width: a varint may carry trailing zero groups.
                let more = if i + 1 < LENGTH_BYTES { 0x80 } else { 0 };
                *byte = (len & 0x7f) as u8 | more;
                len >>= 7;
            }
        }
    }

    fn write_segment(&mut self, begin: usize, end: usize) {
        let mut body = vec![0x08];
        push_varint(&mut body, begin as u64);
        body.push(0x10);
        push_varint(&mut body, end as u64);
        self.write_tag(SEGMENT_FIELD, LEN);
        push_varint(&mut self.out.structure, body.len() as u64);
        self.out.structure.extend(body);
    }

    fn lift(&mut self, weights: Weights, len: usize) -> Result<(), Diag> {
        let unit = match weights {
            Weights::Raw => 1,
            Weights::Float => 4,
            Weights::Double => 8,
        };
        if !len.is_multiple_of(unit) {
            let text = format!("a tensor's packed data of {len} bytes is not a multiple of {unit}");
            return Err(letter("I004", text, self.at, NOT_ONNX));
        }
        // An empty field says nothing; some writers always write one.
        if len > 0 {
            self.out.lifts.push(Lift { weights, offset: self.at, len });
        }
        self.at += len;
        Ok(())
    }

    fn plain(&mut self, number: u32, len: usize) -> Result<(), Diag> {
        let start = self.at;
        self.at += len;
        self.write_tag(number, LEN);
        push_varint(&mut self.out.structure, len as u64);
        self.copy(start, self.at)
    }

    fn copy(&mut self, start: usize, end: usize) -> Result<(), Diag> {
        if self.out.structure.len() + (end - start) > self.limits.structure_bytes {
            return Err(self.too_large("structure without weights", self.limits.structure_bytes, "bytes"));
        }
        self.out.structure.extend_from_slice(&self.bytes[start..end]);
        Ok(())
    }

    fn bounded(&self) -> Result<(), Diag> {
        if self.out.structure.len() > self.limits.structure_bytes {
            return Err(self.too_large("structure without weights", self.limits.structure_bytes, "bytes"));
        }
        Ok(())
    }

    fn count(&mut self, msg: Msg) -> Result<(), Diag> {
        self.n_messages += 1;
        self.n_nodes += usize::from(msg == Msg::Node);
        self.n_tensors += usize::from(msg == Msg::Tensor);
        let limits = self.limits;
        match () {
            () if self.n_nodes > limits.nodes => Err(self.too_large("model", limits.nodes, "nodes")),
            () if self.n_tensors > limits.tensors => Err(self.too_large("model", limits.tensors, "tensors")),
            () if self.n_messages > limits.messages => {
                Err(self.too_large("model", limits.messages, "messages"))
            }
            () => Ok(()),
        }
    }

    fn too_large(&self, what: &str, limit: usize, unit: &str) -> Diag {
        letter("I007", format!("the {what} has more than {limit} {unit}"), self.at, "raise the limit")
    }

    fn only_once(&mut self, number: u32, start: usize) -> Result<(), Diag> {
        let Some(frame) = self.stack.last_mut() else { return Ok(()) };
        let bit = 1u64 << (number & 63);
        if frame.seen & bit != 0 {
            let text = format!("field {number} of a {:?} message occurs twice", frame.msg);
            return Err(letter("I009", text, start, NOT_ONNX));
        }
        frame.seen |= bit;
        Ok(())
    }

    fn tag(&mut self, end: usize) -> Result<(u32, u8), Diag> {
        let start = self.at;
        let tag = self.varint(end)?;
        let number = u32::try_from(tag >> 3).unwrap_or(0);
        if number == 0 || tag > u64::from(u32::MAX) {
            return Err(letter("I004", "a field has an impossible number", start, NOT_ONNX));
        }
        Ok((number, (tag & 7) as u8))
    }

    fn length(&mut self, end: usize) -> Result<usize, Diag> {
        let start = self.at;
        let len = self.varint(end)?;
        let left = end - self.at;
        usize::try_from(len).ok().filter(|&l| l <= left).ok_or_else(|| {
            let text = format!("a field claims {len} bytes, {left} are left in its message");
            letter("I004", text, start, TRUNCATED)
        })
    }

    fn varint(&mut self, end: usize) -> Result<u64, Diag> {
        let start = self.at;
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            if self.at == end {
                return Err(letter("I004", "the file ends inside a number", start, TRUNCATED));
            }
            let byte = self.bytes[self.at];
            self.at += 1;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(letter("I004", "a number has more than ten bytes", start, NOT_ONNX))
    }

    fn skip(&mut self, n_bytes: usize, end: usize) -> Result<(), Diag> {
        if end - self.at < n_bytes {
            return Err(letter("I004", "the file ends inside a number", self.at, TRUNCATED));
        }
        self.at += n_bytes;
        Ok(())
    }

    fn write_tag(&mut self, number: u32, wire: u8) {
        push_varint(&mut self.out.structure, (u64::from(number) << 3) | u64::from(wire));
    }
}

const NOT_ONNX: &str = "the file is damaged or is not an ONNX model";
const TRUNCATED: &str = "the file is damaged or incomplete; copy or export it again";

fn letter(code: &'static str, text: impl Into<String>, at: usize, hint: &str) -> Diag {
    Diag::new(code, text).at_byte(at as u64).hint(hint)
}

/// Appends a varint.
pub(crate) fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length-delimited field.
pub(crate) fn push_field(out: &mut Vec<u8>, number: u64, payload: &[u8]) {
    push_varint(out, number << 3 | u64::from(LEN));
    push_varint(out, payload.len() as u64);
    out.extend_from_slice(payload);
}

/// One field of a message.
pub(crate) struct FieldAt {
    pub(crate) number: u32,
    /// The number it holds, if it is a varint.
    pub(crate) value: u64,
    /// The bytes it holds, if it is length-delimited.
    pub(crate) payload: Option<Bytes>,
}

/// The fields of one message, without looking into nested ones.
///
/// # Errors
/// `I004` broken encoding, `I005` groups.
pub(crate) fn fields(bytes: &Bytes) -> Result<Vec<FieldAt>, Diag> {
    let limits = Limits::default();
    let mut scan = Scan::over(bytes.as_slice(), Msg::Entry, &limits);
    let end = bytes.as_slice().len();
    let mut out = Vec::new();
    while scan.at < end {
        let start = scan.at;
        let (number, wire) = scan.tag(end)?;
        let mut field = FieldAt { number, value: 0, payload: None };
        match wire {
            VARINT => field.value = scan.varint(end)?,
            FIXED64 => scan.skip(8, end)?,
            FIXED32 => scan.skip(4, end)?,
            LEN => {
                let len = scan.length(end)?;
                field.payload = bytes.sub(scan.at, len);
                scan.at += len;
            }
            3 | 4 => {
                let text = "the file uses protobuf groups, which no ONNX file has";
                return Err(letter("I005", text, start, NOT_ONNX));
            }
            _ => return Err(letter("I004", format!("wire type {wire} does not exist"), start, NOT_ONNX)),
        }
        out.push(field);
    }
    Ok(out)
}

/// The numbers of a packed field.
///
/// # Errors
/// `I004` broken encoding.
pub(crate) fn varints(bytes: &Bytes) -> Result<Vec<i64>, Diag> {
    let limits = Limits::default();
    let mut scan = Scan::over(bytes.as_slice(), Msg::Entry, &limits);
    let end = bytes.as_slice().len();
    let mut out = Vec::new();
    while scan.at < end {
        out.push(scan.varint(end)?.cast_signed());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field_bytes(number: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        push_varint(&mut out, u64::from(number) << 3 | 2);
        push_varint(&mut out, payload.len() as u64);
        out.extend_from_slice(payload);
        out
    }

    fn code(bytes: &[u8], limits: &Limits) -> &'static str {
        scan(bytes, Msg::Model, limits).map_or_else(|d| d.code, |_| "ok")
    }

    #[test]
    fn weights_are_lifted() {
        let tensor = field_bytes(9, &[7; 1000]);
        let model = field_bytes(7, &field_bytes(5, &tensor));
        let out = scan(&model, Msg::Model, &Limits::default()).unwrap();
        assert!(out.structure.len() < 40);
        assert_eq!(out.lifts.len(), 1);
        assert_eq!((out.lifts[0].offset, out.lifts[0].len), (model.len() - 1000, 1000));
    }

    #[test]
    fn references_cannot_be_forged() {
        let forged = field_bytes(3, &[0x08, 0, 0x10, 1]);
        let model = field_bytes(7, &field_bytes(5, &forged));
        assert_eq!(code(&model, &Limits::default()), "U003");
    }

    #[test]
    fn broken_encodings_are_refused() {
        let limits = Limits::default();
        assert_eq!(code(&[0x7b; 20_000], &limits), "I005");
        assert_eq!(code(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f, 1], &limits), "I004");
        assert_eq!(code(&[0x80; 11], &limits), "I004");
        assert_eq!(code(&[0x00], &limits), "I004");
        assert_eq!(code(&[0x09, 1, 2], &limits), "I004");
        assert_eq!(code(&field_bytes(2, &[0xff]), &limits), "I008");
        assert_eq!(code(&[0x3a, 0, 0x3a, 0], &limits), "I009");
    }

    #[test]
    fn nesting_stops_exactly_at_the_limit() {
        // An optional type holds a type: each level is two messages.
        let mut inner = Vec::new();
        for _ in 0..10 {
            inner = field_bytes(9, &field_bytes(1, &inner));
        }
        let limits = |depth| Limits { depth, ..Limits::default() };
        assert!(scan(&inner, Msg::Type, &limits(20)).is_ok());
        assert_eq!(scan(&inner, Msg::Type, &limits(19)).unwrap_err().code, "I006");
    }

    #[test]
    fn counts_stop_exactly_at_the_limit() {
        let nodes = [0x0a, 0].repeat(5);
        let model = field_bytes(7, &nodes);
        assert_eq!(code(&model, &Limits { nodes: 5, ..Limits::default() }), "ok");
        assert_eq!(code(&model, &Limits { nodes: 4, ..Limits::default() }), "I007");
        assert_eq!(code(&model, &Limits { messages: 5, ..Limits::default() }), "I007");
        assert_eq!(code(&model, &Limits { structure_bytes: 20, ..Limits::default() }), "I007");
    }

    #[test]
    fn lengths_have_a_fixed_width() {
        let model = field_bytes(7, &[]);
        let out = scan(&model, Msg::Model, &Limits::default()).unwrap();
        assert_eq!(out.structure, [0x3a, 0x80, 0x80, 0x80, 0x80, 0]);
    }
}
