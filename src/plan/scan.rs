//! Counts what decoding a message would allocate, by walking its bytes along a table of the message types.
//!
//! Two bytes of a file can stand for a step of two hundred bytes in memory, so a length limit alone does not
//! bound the heap. This walk allocates nothing, refuses unknown fields and stops at the budget.

use crate::limits::MAX_DECODED_BYTES;
use crate::program::{Bind, Block, BodyUse, Constant, ConstantUse, Item, Program, SlotPort};
use crate::{
    Alone, Choice, Device, DimExpr, Kernel, Param, Plan, PlanError, Port, Provenance, Queue, Step, Symbol,
    TileInstr, TileProgram, Value, Wait, Why, dim::DimItem,
};
use std::mem::size_of;

/// What a field holds.
#[derive(Clone, Copy)]
enum Kind {
    /// Varint.
    Varint,
    /// Eight bytes.
    Fixed64,
    /// Text.
    Text,
    /// Varints, packed or one by one, with the bytes of one element in memory.
    Varints(u64),
    /// Doubles, packed or one by one.
    Doubles,
    /// A message of the type at this index of `TYPES`.
    Message(usize),
}

use Kind::{Doubles, Fixed64, Message, Text, Varint, Varints};

/// A message type: bytes in memory and the fields by tag (tag 1 first).
struct Type {
    bytes: usize,
    fields: &'static [Kind],
}

const fn kind(bytes: usize, fields: &'static [Kind]) -> Type {
    Type { bytes, fields }
}

/// The fields of a plan; the last one is its program.
const PLAN: &[Kind] = &[
    Text,
    Message(1),
    Message(2),
    Message(3),
    Message(4),
    Message(5),
    Message(6),
    Message(6),
    Message(7),
    Varint,
    Message(17),
];

/// All message types; index 0 is the plan.
const TYPES: [Type; 27] = [
    kind(0, PLAN),
    kind(size_of::<Device>(), &[Text, Text, Text, Varint, Text, Varint, Varint]),
    kind(size_of::<Symbol>(), &[Text, Varint, Varint, Varint, Varint]),
    kind(
        size_of::<Value>(),
        &[Text, Varint, Message(8), Varint, Varint, Varint, Varint, Varint, Varint, Varint, Text],
    ),
    kind(size_of::<Kernel>(), &[Text, Message(10), Message(11)]),
    kind(size_of::<Queue>(), &[Text, Varint, Varint, Varint, Message(13)]),
    kind(size_of::<Port>(), &[Text, Varint]),
    kind(
        size_of::<Provenance>(),
        &[Text, Text, Text, Fixed64, Fixed64, Text, Text, Varint, Varint, Text, Message(26)],
    ),
    kind(size_of::<DimExpr>(), &[Message(9)]),
    kind(size_of::<DimItem>(), &[Varint, Varint]),
    kind(size_of::<Param>(), &[Text, Varints(8), Doubles, Text, Message(8)]),
    kind(size_of::<TileProgram>(), &[Varint, Message(12), Varints(4)]),
    kind(size_of::<TileInstr>(), &[Varint, Varint, Varints(4), Varint, Fixed64, Varint]),
    kind(
        size_of::<Step>(),
        &[Text, Varint, Varints(4), Varints(4), Message(14), Fixed64, Fixed64, Message(15), Text],
    ),
    kind(size_of::<Wait>(), &[Varint, Varint]),
    kind(size_of::<Why>(), &[Message(16), Fixed64, Fixed64, Text, Text]),
    kind(size_of::<Choice>(), &[Text, Fixed64, Text, Fixed64, Text]),
    kind(size_of::<Program>(), &[Message(18), Message(19), Message(20), Text]),
    // A part of a program is a plan without a program, so that plans do not nest.
    kind(size_of::<Plan>(), PLAN.split_at(PLAN.len() - 1).0),
    kind(size_of::<Block>(), &[Text, Varint, Message(21), Message(21), Message(22), Message(23)]),
    kind(size_of::<Constant>(), &[Varint, Varints(8), Varint, Text]),
    kind(size_of::<SlotPort>(), &[Text, Varint, Varint, Varint, Message(8), Text]),
    kind(size_of::<ConstantUse>(), &[Varint, Varint]),
    kind(
        size_of::<Item>(),
        &[Text, Varint, Message(4), Varints(4), Varints(4), Message(24), Message(25), Text],
    ),
    kind(size_of::<BodyUse>(), &[Text, Varint]),
    kind(size_of::<Bind>(), &[Varint, Varint, Varint]),
    kind(size_of::<Alone>(), &[Text, Fixed64, Text]),
];

const WIRE_VARINT: u64 = 0;
const WIRE_FIXED64: u64 = 1;
const WIRE_BYTES: u64 = 2;

/// Checks that the bytes are a plan message of known fields and bounded size in memory.
///
/// # Errors
/// `L006` for malformed bytes, `L007` when the decoded plan would exceed [`MAX_DECODED_BYTES`].
pub(crate) fn scan(bytes: &[u8]) -> Result<(), PlanError> {
    let mut walk = Walk { budget: MAX_DECODED_BYTES };
    walk.message(0, bytes).map_err(|fault| match fault {
        Fault::Malformed => PlanError::new(
            "L006",
            "the message section",
            "the bytes are not a plan message",
            "the file is damaged or was not written by this program; compile the model again",
        ),
        Fault::Budget => PlanError::new(
            "L007",
            "the message section",
            format!("the plan would take more than {MAX_DECODED_BYTES} bytes of memory"),
            "split the model",
        ),
    })
}

enum Fault {
    Malformed,
    Budget,
}

struct Walk {
    budget: u64,
}

impl Walk {
    /// Takes `bytes` (doubled: vectors grow by doubling) from the budget.
    fn spend(&mut self, bytes: u64) -> Result<(), Fault> {
        self.budget = self.budget.checked_sub(bytes.saturating_mul(2)).ok_or(Fault::Budget)?;
        Ok(())
    }

    /// Walks one message; the recursion is as deep as `TYPES` nests (nine levels).
    fn message(&mut self, index: usize, bytes: &[u8]) -> Result<(), Fault> {
        self.spend(TYPES[index].bytes as u64)?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let key = varint(&mut rest)?;
            let tag = usize::try_from(key >> 3).map_err(|_| Fault::Malformed)?;
            let field = tag.checked_sub(1).and_then(|i| TYPES[index].fields.get(i));
            self.field(*field.ok_or(Fault::Malformed)?, key & 7, &mut rest)?;
        }
        Ok(())
    }

    fn field(&mut self, kind: Kind, wire: u64, rest: &mut &[u8]) -> Result<(), Fault> {
        match (kind, wire) {
            (Varint, WIRE_VARINT) => varint(rest).map(drop),
            (Fixed64, WIRE_FIXED64) => take(rest, 8).map(drop),
            (Varints(element), WIRE_VARINT) => {
                varint(rest)?;
                self.spend(element)
            }
            (Doubles, WIRE_FIXED64) => {
                take(rest, 8)?;
                self.spend(8)
            }
            (_, WIRE_BYTES) => {
                let length = varint(rest)?;
                let body = take(rest, length)?;
                self.body(kind, body)
            }
            _ => Err(Fault::Malformed),
        }
    }

    /// The body of a length-delimited field.
    fn body(&mut self, kind: Kind, body: &[u8]) -> Result<(), Fault> {
        match kind {
            Text => self.spend((size_of::<String>() + body.len()) as u64),
            Varints(element) => self.spend((body.len() as u64).saturating_mul(element)),
            Doubles => self.spend(body.len() as u64),
            Message(index) => self.message(index, body),
            Varint | Fixed64 => Err(Fault::Malformed),
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], Fault> {
    let length = usize::try_from(length).map_err(|_| Fault::Malformed)?;
    let (head, tail) = rest.split_at_checked(length).ok_or(Fault::Malformed)?;
    *rest = tail;
    Ok(head)
}

fn varint(rest: &mut &[u8]) -> Result<u64, Fault> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Fault::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_tiny_messages_are_refused_before_decoding() {
        // 4 Mi empty values of two bytes each would take over 500 MiB once decoded.
        let bytes: Vec<u8> = std::iter::repeat_n([0x22, 0x00], 4 << 20).flatten().collect();
        assert_eq!(scan(&bytes).unwrap_err().code, "L007");
    }

    #[test]
    fn unknown_fields_and_cut_bytes_are_refused() {
        assert_eq!(scan(&[0x7a, 0x00]).unwrap_err().code, "L006");
        assert_eq!(scan(&[0x22, 0x05, 0x00]).unwrap_err().code, "L006");
        assert_eq!(scan(&[0xff; 11]).unwrap_err().code, "L006");
    }
}
