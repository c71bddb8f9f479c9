//! `.safetensors`: an 8-byte length, a JSON header, raw little-endian bytes.
//!
//! Reading goes through the `safetensors` crate after two checks it does not make. Writing does
//! not: the crate keeps metadata in a hash map, whose order differs from run to run, and our files
//! must be equal when their content is.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::{Array, ArrayData};
use crate::error::{Error, Result};

/// The header key that holds metadata instead of an array.
pub(super) const METADATA_KEY: &str = "__metadata__";

type Arrays = BTreeMap<String, Array>;
type Metadata = BTreeMap<String, String>;

pub(super) fn parse(origin: &Path, bytes: &[u8]) -> Result<(Arrays, Metadata)> {
    let file = Tensors::open(origin, bytes)?;
    let mut arrays = BTreeMap::new();
    for name in file.names() {
        arrays.extend(file.read(&name)?.map(|array| (name, array)));
    }
    Ok((arrays, parse_metadata(origin, bytes)?))
}

/// A file, of which only arrays that are asked for are decoded.
pub(super) struct Tensors<'a> {
    origin: PathBuf,
    file: SafeTensors<'a>,
}

impl<'a> Tensors<'a> {
    pub(super) fn open(origin: &Path, bytes: &'a [u8]) -> Result<Self> {
        check_header(origin, bytes)?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| corrupt(origin, &e))?;
        Ok(Tensors { origin: origin.to_path_buf(), file })
    }

    /// In alphabetical order.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.file.names().into_iter().map(|n| n.to_string()).collect();
        names.sort_unstable();
        names
    }

    /// True if the array is of numbers that we hold.
    pub(super) fn is_numeric(&self, name: &str) -> bool {
        self.file.tensor(name).is_ok_and(|tensor| decode(tensor.dtype(), &[]).is_some())
    }

    pub(super) fn read(&self, name: &str) -> Result<Option<Array>> {
        let Ok(tensor) = self.file.tensor(name) else { return Ok(None) };
        let data = decode(tensor.dtype(), tensor.data()).ok_or_else(|| {
            let dtype = tensor.dtype();
            let allowed = "BOOL, I8..I64, U8..U64, F16, BF16, F32 or F64";
            Error::format(&self.origin, format!("array `{name}`: element type {dtype}; expected {allowed}"))
        })?;
        Ok(Some(Array { shape: tensor.shape().to_vec(), data }))
    }
}

pub(super) fn parse_metadata(origin: &Path, bytes: &[u8]) -> Result<Metadata> {
    check_header(origin, bytes)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| corrupt(origin, &e))?;
    Ok(header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect())
}

fn corrupt(origin: &Path, e: &dyn fmt::Display) -> Error {
    Error::format(origin, format!("not a readable .safetensors file: {e}"))
}

/// Decode `bytes`, whose length the crate has checked; `None` for element types we do not hold.
fn decode(dtype: Dtype, bytes: &[u8]) -> Option<ArrayData> {
    macro_rules! words {
        ($t:ty, $variant:ident, $convert:expr) => {{
            let (words, _) = bytes.as_chunks::<{ size_of::<$t>() }>();
            ArrayData::$variant(words.iter().map(|&w| $convert(<$t>::from_le_bytes(w))).collect())
        }};
    }
    Some(match dtype {
        Dtype::BOOL => words!(u8, U64, |b| u64::from(b != 0)),
        Dtype::I8 => words!(i8, I64, i64::from),
        Dtype::I16 => words!(i16, I64, i64::from),
        Dtype::I32 => words!(i32, I64, i64::from),
        Dtype::I64 => words!(i64, I64, i64::from),
        Dtype::U8 => words!(u8, U64, u64::from),
        Dtype::U16 => words!(u16, U64, u64::from),
        Dtype::U32 => words!(u32, U64, u64::from),
        Dtype::U64 => words!(u64, U64, u64::from),
        Dtype::F16 => words!(f16, F32, f16::to_f32),
        Dtype::BF16 => words!(bf16, F32, bf16::to_f32),
        Dtype::F32 => words!(f32, F32, f32::from),
        Dtype::F64 => words!(f64, F64, f64::from),
        _ => return None,
    })
}

/// Refuse what the crate lets through: repeated names (it keeps one of them, silently) and offsets
/// near the end of the address space (its sum of offset and header length overflows).
fn check_header(origin: &Path, bytes: &[u8]) -> Result<()> {
    let truncated = || corrupt(origin, &"truncated header");
    let (length, rest) = bytes.split_first_chunk().ok_or_else(truncated)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| truncated())?;
    let (header, data) = rest.split_at_checked(length).ok_or_else(truncated)?;
    let entries: Entries = serde_json::from_slice(header).map_err(|e| corrupt(origin, &e))?;
    match entries.ends.iter().find(|(_, end)| *end > data.len() as u64) {
        Some((name, end)) => Err(Error::format(
            origin,
            format!("array `{name}`: ends at byte {end} of {} bytes of data", data.len()),
        )),
        None => Ok(()),
    }
}

/// Names and end offsets of all arrays in a header; deserialising it fails on a repeated name.
struct Entries {
    ends: Vec<(String, u64)>,
}

#[derive(Deserialize)]
struct Span {
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of named arrays")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                let (mut names, mut ends) = (HashSet::new(), Vec::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format_args!(
                            "two arrays of the same name `{name}`"
                        )));
                    }
                    if name == METADATA_KEY {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    } else {
                        ends.push((name, map.next_value::<Span>()?.data_offsets.1));
                    }
                }
                Ok(Entries { ends })
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

pub(super) fn encode(
    path: &Path,
    arrays: &BTreeMap<&str, &Array>,
    metadata: Option<&Metadata>,
) -> Result<Vec<u8>> {
    // Wide elements first, so that every array is aligned to its element in a mapped file; then by
    // name.
    let mut order: Vec<(&str, &Array)> = arrays.iter().map(|(n, a)| (*n, *a)).collect();
    order.sort_by_key(|(name, array)| (std::cmp::Reverse(array.data.width()), *name));
    let mut fields = Vec::new();
    if let Some(metadata) = metadata {
        fields.push(format!("\"{METADATA_KEY}\":{}", json(path, metadata)?));
    }
    let mut offset = 0;
    for (name, array) in &order {
        let end = offset + array.data.len() * array.data.width();
        let dtype = match array.data {
            ArrayData::F32(_) => "F32",
            ArrayData::F64(_) => "F64",
            ArrayData::I64(_) => "I64",
            ArrayData::U64(_) => "U64",
        };
        fields.push(format!(
            "{}:{{\"dtype\":\"{dtype}\",\"shape\":{},\"data_offsets\":[{offset},{end}]}}",
            json(path, name)?,
            json(path, &array.shape)?,
        ));
        offset = end;
    }
    let mut header = format!("{{{}}}", fields.join(","));
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut out = Vec::with_capacity(8 + header.len() + offset);
    out.extend_from_slice(&(header.len() as u64).to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    order.iter().for_each(|(_, array)| array.data.extend_le_bytes(&mut out));
    Ok(out)
}

fn json<T: Serialize + ?Sized>(path: &Path, value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::format(path, format!("cannot make a header: {e}")))
}
