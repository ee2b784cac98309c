//! Element types as the plan file numbers them.

/// Element type of a value; the numbers are part of the file format.
///
/// Types below a byte are held one element per byte (4- and 2-bit integers as their value, floats as their code);
/// only files pack them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ElementType {
    F32 = 0,
    F16 = 1,
    Bf16 = 2,
    F64 = 3,
    I8 = 4,
    I16 = 5,
    I32 = 6,
    I64 = 7,
    U8 = 8,
    U16 = 9,
    U32 = 10,
    U64 = 11,
    Bool = 12,
    /// 8-bit floats (Micikevicius et al. 2022, OCP FP8): 4 exponent bits, no infinities.
    F8E4M3fn = 13,
    /// The same without negative zero.
    F8E4M3fnuz = 14,
    /// 5 exponent bits, with infinities.
    F8E5M2 = 15,
    /// The same without infinities and negative zero.
    F8E5M2fnuz = 16,
    /// A power of two, unsigned (OCP Microscaling Formats).
    F8E8M0 = 17,
    /// 4-bit float (OCP Microscaling Formats).
    F4E2M1 = 18,
    I4 = 19,
    U4 = 20,
    I2 = 21,
    U2 = 22,
    /// Text: an index into the tensor's own table of strings.
    Str = 23,
    /// 6-bit float with 2 exponent bits (OCP Microscaling Formats).
    F6E2M3 = 24,
    /// The same with 3.
    F6E3M2 = 25,
}

impl ElementType {
    /// Bytes of one element in memory.
    pub fn size_bytes(self) -> usize {
        match self.bits() {
            bits if bits < 8 => 1,
            bits => bits / 8,
        }
    }

    /// Bits of one element where files pack it.
    pub fn bits(self) -> usize {
        match self {
            Self::I2 | Self::U2 => 2,
            Self::I4 | Self::U4 | Self::F4E2M1 => 4,
            Self::F6E2M3 | Self::F6E3M2 => 6,
            Self::I8 | Self::U8 | Self::Bool => 8,
            Self::F8E4M3fn | Self::F8E4M3fnuz | Self::F8E5M2 | Self::F8E5M2fnuz | Self::F8E8M0 => 8,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 16,
            Self::F32 | Self::I32 | Self::U32 | Self::Str => 32,
            Self::F64 | Self::I64 | Self::U64 => 64,
        }
    }

    /// Whether it holds floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16 | Self::F64) || self.is_small_float()
    }

    /// Whether it is a float of at most 8 bits.
    pub fn is_small_float(self) -> bool {
        matches!(
            self,
            Self::F8E4M3fn
                | Self::F8E4M3fnuz
                | Self::F8E5M2
                | Self::F8E5M2fnuz
                | Self::F8E8M0
                | Self::F6E2M3
                | Self::F6E3M2
                | Self::F4E2M1
        )
    }

    /// Whether kernels compute with it: everything but types of at most 8 bits that are only stored, and text.
    pub fn is_computable(self) -> bool {
        (self as i32) <= Self::Bool as i32
    }

    /// Name as printed, as `f32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F64 => "f64",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::Bool => "bool",
            Self::F8E4M3fn => "f8e4m3fn",
            Self::F8E4M3fnuz => "f8e4m3fnuz",
            Self::F8E5M2 => "f8e5m2",
            Self::F8E5M2fnuz => "f8e5m2fnuz",
            Self::F8E8M0 => "f8e8m0",
            Self::F4E2M1 => "f4e2m1",
            Self::I4 => "i4",
            Self::U4 => "u4",
            Self::I2 => "i2",
            Self::U2 => "u2",
            Self::Str => "str",
            Self::F6E2M3 => "f6e2m3",
            Self::F6E3M2 => "f6e3m2",
        }
    }
}
