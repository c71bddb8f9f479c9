//! One `.npy` array: NumPy's NEP 1 format, versions 1 to 3, either byte order; written by npyz.
//!
//! Headers are not trusted: their grammar (py_literal) recurses as deep as the input nests, so
//! depth is checked first, and an array is read only where its header describes exactly the bytes
//! that follow.

use npyz::{DType, Serialize, WriteOptions, WriterBuilder};
use py_literal::Value;

use super::{Array, ArrayData, element_count};

/// What is wrong with an array; the caller adds the file and the array's name.
pub(super) type Problem = String;

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header accepted, in bytes. NumPy's own limit is 10 000; only structured types come near
/// it.
const MAX_HEADER: usize = 64 * 1024;
/// Most bytes before the data: magic bytes, version, length, header.
pub(super) const LONGEST_START: u64 = 12 + MAX_HEADER as u64;
/// Deepest nesting of brackets looked into. A plain array's header has 2, a structured one at least
/// 3; the grammar may read the innermost twice for every level.
const MAX_DEPTH: usize = 3;
/// Most dimensions accepted: NumPy's own limit.
const MAX_DIMS: usize = 64;
/// Element types accepted, without byte order.
const KINDS: [&str; 12] = ["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"];

/// Parse one complete `.npy` file.
pub(super) fn parse(bytes: &[u8]) -> Result<Array, Problem> {
    let (header, data) = split_header(bytes)?;
    let Header { kind, big_endian, fortran, shape } = check_header(header)?;
    let width: usize = kind[1..].parse().unwrap_or(1);
    let count = element_count(&shape);
    let expected = count
        .and_then(|n| n.checked_mul(width))
        .ok_or_else(|| format!("shape {shape:?} overflows the address space"))?;
    if data.len() != expected {
        return Err(format!("{} bytes of data; expected {expected} for shape {shape:?}", data.len()));
    }
    use ArrayData::{F32, F64, I64, U64};
    macro_rules! words {
        ($t:ty, $variant:ident, $convert:expr) => {{
            let (words, _) = data.as_chunks::<{ size_of::<$t>() }>();
            let read = if big_endian { <$t>::from_be_bytes } else { <$t>::from_le_bytes };
            $variant(words.iter().map(|&w| $convert(read(w))).collect())
        }};
    }
    let mut data = match kind {
        "b1" => words!(u8, U64, |b| u64::from(b != 0)),
        "i1" => words!(i8, I64, i64::from),
        "i2" => words!(i16, I64, i64::from),
        "i4" => words!(i32, I64, i64::from),
        "i8" => words!(i64, I64, i64::from),
        "u1" => words!(u8, U64, u64::from),
        "u2" => words!(u16, U64, u64::from),
        "u4" => words!(u32, U64, u64::from),
        "u8" => words!(u64, U64, u64::from),
        "f2" => words!(half::f16, F32, half::f16::to_f32),
        "f4" => words!(f32, F32, f32::from),
        _ => words!(f64, F64, f64::from),
    };
    if fortran {
        match &mut data {
            F32(v) => to_c_order(v, &shape),
            F64(v) => to_c_order(v, &shape),
            I64(v) => to_c_order(v, &shape),
            U64(v) => to_c_order(v, &shape),
        }
    }
    Ok(Array { shape, data })
}

/// True if `start`, the first [`LONGEST_START`] bytes of a file or all of them, is the header of an
/// array that [`parse`] can hold.
pub(super) fn is_numeric(start: &[u8]) -> bool {
    split_header(start).and_then(|(header, _)| check_header(header)).is_ok()
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

/// Encode one array as `.npy`, version 1.0, little-endian, C order.
pub(super) fn encode(array: &Array) -> Result<Vec<u8>, Problem> {
    // npyz multiplies the extents unchecked; those of an empty array may overflow.
    let shape: Vec<u64> = array.shape.iter().map(|&d| d as u64).collect();
    if shape.len() > MAX_DIMS || shape.iter().try_fold(1_u64, |n, &d| n.checked_mul(d)).is_none() {
        return Err(format!("shape {shape:?} is more than the format holds"));
    }
    let written = match &array.data {
        ArrayData::F32(v) => write("<f4", &shape, v),
        ArrayData::F64(v) => write("<f8", &shape, v),
        ArrayData::I64(v) => write("<i8", &shape, v),
        ArrayData::U64(v) => write("<u8", &shape, v),
    };
    written.map_err(|e| e.to_string())
}

fn write<T: Serialize + Copy>(descr: &str, shape: &[u64], elements: &[T]) -> std::io::Result<Vec<u8>> {
    let dtype = descr.parse().map(DType::new_scalar).map_err(std::io::Error::other)?;
    let mut out = Vec::new();
    let mut writer = WriteOptions::new().dtype(dtype).shape(shape).writer(&mut out).begin_nd()?;
    writer.extend(elements.iter().copied())?;
    writer.finish()?;
    Ok(out)
}

struct Header {
    kind: &'static str,
    big_endian: bool,
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

/// The header's element type, order and shape, when it is one that we hold.
fn check_header(header: &[u8]) -> Result<Header, Problem> {
    let text = std::str::from_utf8(header).map_err(|e| format!("malformed .npy header: {e}"))?.trim();
    if !text.starts_with('{') {
        return Err("malformed .npy header: expected `{`".to_string());
    }
    if !text.ends_with('}') {
        return Err("text after the .npy header".to_string());
    }
    let deepest = text.chars().scan(0_usize, |depth, c| {
        match c {
            '(' | '[' | '{' => *depth += 1,
            ')' | ']' | '}' => *depth = depth.saturating_sub(1),
            _ => {}
        }
        Some(*depth)
    });
    if deepest.max() > Some(MAX_DEPTH) {
        return Err("nested brackets in the .npy header; expected plain numbers".to_string());
    }
    let text = as_python_3(text);
    let Value::Dict(entries) =
        text.parse().map_err(|_| "malformed .npy header: expected a Python dict".to_string())?
    else {
        return Err("malformed .npy header: expected a dict".to_string());
    };
    let (mut kind, mut shape, mut order) = (None, None, None);
    for (key, value) in &entries {
        let repeated = match key.as_string().map(String::as_str) {
            Some("descr") => kind.replace(check_descr(value)?).is_some(),
            Some("fortran_order") => match value {
                Value::Boolean(b) => order.replace(*b).is_some(),
                _ => return Err("malformed .npy header: expected True or False".to_string()),
            },
            Some("shape") => shape.replace(check_shape(value)?).is_some(),
            _ => return Err(format!("unknown .npy header key {key}")),
        };
        if repeated {
            return Err(format!(".npy header key {key} given twice"));
        }
    }
    match (kind, shape, order) {
        (Some((kind, big_endian)), Some(shape), Some(fortran)) => {
            Ok(Header { kind, big_endian, fortran, shape })
        }
        _ => Err(".npy header without `descr`, `fortran_order` or `shape`".to_string()),
    }
}

/// A header as Python 3 writes it: Python 2 marked long integers, `(40L, 9L)`, and text,
/// `u'descr'`.
fn as_python_3(header: &str) -> String {
    let (mut out, mut quote, mut digit) = (String::with_capacity(header.len()), None, false);
    let mut chars = header.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, 'L') if digit => {
                digit = false;
                continue;
            }
            (None, 'u') if chars.peek().is_some_and(|next| "'\"".contains(*next)) => continue,
            // Blanks of any kind between entries.
            (None, '\n' | '\r' | '\t') => {
                out.push(' ');
                continue;
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), _) if c == q => quote = None,
            _ => {}
        }
        digit = quote.is_none() && c.is_ascii_digit();
        out.push(c);
    }
    out
}

/// A NumPy type string such as `<f4`: the type without its byte order, and whether that is
/// big-endian. Without one, or with `=` or `|`, it is that of the machine, as in NumPy:
/// little-endian on all that this program runs on.
fn check_descr(value: &Value) -> Result<(&'static str, bool), Problem> {
    let Value::String(descr) = value else {
        return Err("structured element type; expected plain numbers".to_string());
    };
    let kind = descr.strip_prefix(['<', '>', '|', '=']).unwrap_or(descr);
    if kind.starts_with('O') {
        return Err("object arrays are Python pickles; expected numbers".to_string());
    }
    let kind = if kind == "?" { "b1" } else { kind };
    match KINDS.into_iter().find(|k| *k == kind) {
        Some(kind) => Ok((kind, descr.starts_with('>'))),
        None => Err(format!("element type `{descr}`; expected b1, i1..i8, u1..u8, f2, f4 or f8")),
    }
}

fn check_shape(value: &Value) -> Result<Vec<usize>, Problem> {
    let Value::Tuple(extents) = value else {
        return Err("malformed .npy header: expected `(` after `shape`".to_string());
    };
    if extents.len() > MAX_DIMS {
        return Err(format!("more than {MAX_DIMS} dimensions"));
    }
    let size = |v: &Value| match v {
        Value::Integer(n) => usize::try_from(n).ok(),
        _ => None,
    };
    extents.iter().map(|v| size(v).ok_or_else(|| format!("shape extent `{v}` is not a size"))).collect()
}
