//! One `.npy` array: NumPy's NEP 1 format, versions 1 to 3, and the element types both file formats share.
//!
//! The header is a Python dict with three known keys, so it gets a small strict parser of its own: a general parser
//! of Python literals recurses as deep as the input asks it to.

use super::{Array, ArrayData, element_count};

/// What is wrong with an array; the caller adds the file and the array's name.
pub(super) type Problem = String;

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header accepted, in bytes. NumPy's own limit is 10 000; only structured types come near it.
const MAX_HEADER: usize = 64 * 1024;
/// Most dimensions accepted: NumPy's own limit.
const MAX_DIMS: usize = 64;

/// Element types as stored, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Element {
    /// Bytes per element.
    pub(super) fn width(self) -> usize {
        use Element::*;
        match self {
            Bool | I8 | U8 => 1,
            I16 | U16 | F16 | Bf16 => 2,
            I32 | U32 | F32 => 4,
            I64 | U64 | F64 => 8,
        }
    }

    /// From a NumPy type string such as `<f4`.
    fn from_descr(descr: &str) -> Result<Self, Problem> {
        use Element::*;
        let (order, rest) = match descr.chars().next() {
            Some(c @ ('<' | '>' | '|' | '=')) => (c, &descr[1..]),
            _ => ('|', descr),
        };
        let element = match rest {
            "b1" => Bool,
            "i1" => I8,
            "i2" => I16,
            "i4" => I32,
            "i8" => I64,
            "u1" => U8,
            "u2" => U16,
            "u4" => U32,
            "u8" => U64,
            "f2" => F16,
            "f4" => F32,
            "f8" => F64,
            _ if rest.starts_with('O') => {
                return Err("object arrays are Python pickles; expected numbers".to_string());
            }
            _ => return Err(format!("element type `{descr}`; expected b1, i1..i8, u1..u8, f2, f4 or f8")),
        };
        match order {
            '>' if element.width() > 1 => {
                Err(format!("big-endian element type `{descr}`; expected little-endian"))
            }
            '<' | '>' => Ok(element),
            _ if element.width() == 1 => Ok(element),
            _ => Err(format!("element type `{descr}` without byte order; expected little-endian")),
        }
    }
}

/// Decode `bytes`, whose length is a multiple of the element's width.
pub(super) fn decode(element: Element, bytes: &[u8]) -> ArrayData {
    macro_rules! words {
        ($t:ty, $variant:ident, $convert:expr) => {{
            let (words, rest) = bytes.as_chunks::<{ size_of::<$t>() }>();
            debug_assert!(rest.is_empty(), "callers check the length");
            ArrayData::$variant(words.iter().map(|&w| $convert(<$t>::from_le_bytes(w))).collect())
        }};
    }
    match element {
        Element::Bool => ArrayData::U64(bytes.iter().map(|&b| u64::from(b != 0)).collect()),
        Element::I8 => words!(i8, I64, i64::from),
        Element::I16 => words!(i16, I64, i64::from),
        Element::I32 => words!(i32, I64, i64::from),
        Element::I64 => words!(i64, I64, i64::from),
        Element::U8 => words!(u8, U64, u64::from),
        Element::U16 => words!(u16, U64, u64::from),
        Element::U32 => words!(u32, U64, u64::from),
        Element::U64 => words!(u64, U64, u64::from),
        Element::F16 => words!(u16, F32, f32_from_f16),
        Element::Bf16 => words!(u16, F32, |b| f32::from_bits(u32::from(b) << 16)),
        Element::F32 => words!(f32, F32, f32::from),
        Element::F64 => words!(f64, F64, f64::from),
    }
}

/// IEEE half precision to single: exact, NaN payloads kept.
fn f32_from_f16(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(half >> 10) & 0x1f, u32::from(half) & 0x3ff);
    let magnitude = match exponent {
        // Zero and subnormals are fraction * 2^-24, which f32 represents as a normal number.
        0 => (fraction as f32 * 2.0_f32.powi(-24)).to_bits(),
        31 => 0x7f80_0000 | fraction << 13,
        _ => (exponent + 127 - 15) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// Parse one complete `.npy` file.
pub(super) fn parse(bytes: &[u8]) -> Result<Array, Problem> {
    let (header, data) = split_header(bytes)?;
    let header = parse_header(header)?;
    let expected = element_count(&header.shape)
        .and_then(|n| n.checked_mul(header.element.width()))
        .ok_or_else(|| format!("shape {:?} overflows the address space", header.shape))?;
    if data.len() != expected {
        return Err(format!(
            "{} bytes of data; expected {expected} for shape {:?}",
            data.len(),
            header.shape
        ));
    }
    let mut decoded = decode(header.element, data);
    if header.fortran {
        match &mut decoded {
            ArrayData::F32(v) => to_c_order(v, &header.shape),
            ArrayData::F64(v) => to_c_order(v, &header.shape),
            ArrayData::I64(v) => to_c_order(v, &header.shape),
            ArrayData::U64(v) => to_c_order(v, &header.shape),
        }
    }
    Ok(Array { shape: header.shape, data: decoded })
}

/// Reorder from first-index-fastest to last-index-fastest.
fn to_c_order<T: Copy>(v: &mut Vec<T>, shape: &[usize]) {
    if shape.len() < 2 || v.is_empty() {
        return;
    }
    let mut index = vec![0_usize; shape.len()];
    let mut strides = vec![1_usize; shape.len()];
    for d in 1..shape.len() {
        strides[d] = strides[d - 1] * shape[d - 1];
    }
    let source = std::mem::take(v);
    v.reserve_exact(source.len());
    let mut at = 0;
    for _ in 0..source.len() {
        v.push(source[at]);
        for d in (0..shape.len()).rev() {
            index[d] += 1;
            at += strides[d];
            if index[d] < shape[d] {
                break;
            }
            at -= strides[d] * shape[d];
            index[d] = 0;
        }
    }
}

/// Encode one array as `.npy`, version 1.0, C order; the header is padded to a multiple of 64 as NumPy does.
pub(super) fn encode(array: &Array) -> Vec<u8> {
    let dims: Vec<String> = array.shape.iter().map(usize::to_string).collect();
    let comma = if dims.len() == 1 { "," } else { "" };
    let mut header = format!(
        "{{'descr': '<{}', 'fortran_order': False, 'shape': ({}{comma}), }}",
        array.data.type_name(),
        dims.join(", ")
    );
    const PREAMBLE: usize = MAGIC.len() + 4;
    let padded = (PREAMBLE + header.len() + 1).next_multiple_of(64) - PREAMBLE;
    while header.len() + 1 < padded {
        header.push(' ');
    }
    header.push('\n');
    let mut out = Vec::with_capacity(PREAMBLE + header.len() + array.data.len() * array.data.width());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[1, 0]);
    // At most 64 dimensions of at most 20 digits each: two bytes are enough.
    out.extend_from_slice(&(header.len() as u16).to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    array.data.extend_le_bytes(&mut out);
    out
}

struct Header {
    element: Element,
    fortran: bool,
    shape: Vec<usize>,
}

fn split_header(bytes: &[u8]) -> Result<(&[u8], &[u8]), Problem> {
    let truncated = || "truncated .npy header".to_string();
    let rest = bytes.strip_prefix(MAGIC).ok_or("not a .npy file: magic bytes missing")?;
    let (&version, rest) = rest.split_first_chunk::<2>().ok_or_else(truncated)?;
    let (length, rest) = match version {
        [1, 0] => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(truncated)?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        [2 | 3, 0] => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(truncated)?;
            (u32::from_le_bytes(*length) as usize, rest)
        }
        [major, minor] => {
            return Err(format!(".npy version {major}.{minor}; expected 1.0, 2.0 or 3.0"));
        }
    };
    if length > MAX_HEADER {
        return Err(format!(".npy header of {length} bytes; expected at most {MAX_HEADER}"));
    }
    rest.split_at_checked(length).ok_or_else(truncated)
}

fn parse_header(text: &[u8]) -> Result<Header, Problem> {
    let mut p = Parser { text };
    let (mut element, mut fortran, mut shape) = (None, None, None);
    p.expect(b'{')?;
    while !p.accept(b'}') {
        let key = p.string()?;
        p.expect(b':')?;
        let repeated = match key {
            "descr" => {
                if matches!(p.peek(), Some(b'[' | b'(')) {
                    return Err("structured element type; expected plain numbers".to_string());
                }
                element.replace(Element::from_descr(p.string()?)?).is_some()
            }
            "fortran_order" => fortran.replace(p.boolean()?).is_some(),
            "shape" => shape.replace(p.shape()?).is_some(),
            _ => return Err(format!("unknown .npy header key {key:?}")),
        };
        if repeated {
            return Err(format!(".npy header key {key:?} given twice"));
        }
        if !p.accept(b',') {
            p.expect(b'}')?;
            break;
        }
    }
    if p.peek().is_some() {
        return Err("text after the .npy header".to_string());
    }
    match (element, fortran, shape) {
        (Some(element), Some(fortran), Some(shape)) => Ok(Header { element, fortran, shape }),
        _ => Err(".npy header without `descr`, `fortran_order` or `shape`".to_string()),
    }
}

/// A cursor over the header text; every method skips white space first.
struct Parser<'a> {
    text: &'a [u8],
}

impl<'a> Parser<'a> {
    fn peek(&mut self) -> Option<u8> {
        self.text = self.text.trim_ascii_start();
        self.text.first().copied()
    }

    fn accept(&mut self, c: u8) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.text = &self.text[1..];
        }
        found
    }

    fn expect(&mut self, c: u8) -> Result<(), Problem> {
        if self.accept(c) { Ok(()) } else { Err(format!("malformed .npy header: expected `{}`", c as char)) }
    }

    /// A quoted string without escapes: none of the known keys and types needs any.
    fn string(&mut self) -> Result<&'a str, Problem> {
        let malformed = || "malformed .npy header: expected a string".to_string();
        let quote = self.peek().filter(|c| matches!(c, b'\'' | b'"')).ok_or_else(malformed)?;
        let body = &self.text[1..];
        let end = body.iter().position(|&c| c == quote).ok_or_else(malformed)?;
        self.text = &body[end + 1..];
        std::str::from_utf8(&body[..end]).map_err(|_| malformed())
    }

    fn boolean(&mut self) -> Result<bool, Problem> {
        self.peek();
        for (word, value) in [(&b"True"[..], true), (b"False", false)] {
            if let Some(rest) = self.text.strip_prefix(word) {
                self.text = rest;
                return Ok(value);
            }
        }
        Err("malformed .npy header: expected True or False".to_string())
    }

    fn shape(&mut self) -> Result<Vec<usize>, Problem> {
        let mut shape = Vec::new();
        self.expect(b'(')?;
        while !self.accept(b')') {
            if shape.len() == MAX_DIMS {
                return Err(format!("more than {MAX_DIMS} dimensions"));
            }
            self.peek();
            let digits = self.text.iter().take_while(|c| c.is_ascii_digit()).count();
            let (number, rest) = self.text.split_at(digits);
            // Python 2 wrote long integers with a suffix.
            self.text = rest.strip_prefix(b"L").unwrap_or(rest);
            let number = std::str::from_utf8(number).unwrap_or_default();
            shape.push(number.parse().map_err(|_| format!("shape extent `{number}` is not a size"))?);
            if !self.accept(b',') {
                self.expect(b')')?;
                break;
            }
        }
        Ok(shape)
    }
}
