//! Named arrays in `.npz` (NumPy) and `.safetensors` files.
//!
//! Files may come from any program, so no byte is trusted. Sizes are checked against the length of
//! the file before anything is allocated, and anything unexpected is a typed error that names the
//! array.
//!
//! | stored as | delivered as |
//! |---|---|
//! | f2, bf16, f4 | [`ArrayData::F32`] (exact: both half formats embed in f32) |
//! | f8 | [`ArrayData::F64`] |
//! | i1, i2, i4, i8 | [`ArrayData::I64`] |
//! | bool, u1, u2, u4, u8 | [`ArrayData::U64`] |
//!
//! Elements are always delivered in C order (last index fastest) and in this machine's byte order,
//! whatever the file's. [`ArrayFile`] decodes only the arrays that are taken: what else a file
//! holds, texts or dates, does not matter.

mod npy;
mod npz;
mod safetensors;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::files::{write_bytes_atomic, write_new_bytes};
use crate::error::{Error, Result};
use crate::input;

/// Elements of an [`Array`], in C order.
#[derive(Debug, Clone, PartialEq)]
pub enum ArrayData {
    /// Single precision.
    F32(Vec<f32>),
    /// Double precision.
    F64(Vec<f64>),
    /// Signed integers of any stored width.
    I64(Vec<i64>),
    /// Unsigned integers of any stored width, and booleans as 0 and 1.
    U64(Vec<u64>),
}

/// A dense array: a shape and its elements in C order.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    shape: Vec<usize>,
    data: ArrayData,
}

/// How array files are stored. `.safetensors` has no compression and ignores this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// As they are: fast, and NumPy can map them.
    #[default]
    None,
    /// DEFLATE, as `numpy.savez_compressed` does.
    Deflate,
}

/// The two file formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A zip of `.npy` entries.
    Npz,
    /// A JSON header and raw little-endian bytes.
    Safetensors,
}

impl Format {
    /// The format that the extension of `path` names, in capitals or not.
    ///
    /// # Errors
    /// [`Error::Format`] naming the allowed extensions.
    pub fn of(path: &Path) -> Result<Self> {
        match input::extension(path).as_str() {
            "npz" => Ok(Format::Npz),
            "safetensors" => Ok(Format::Safetensors),
            _ => Err(Error::format(path, "expected a file name that ends in .npz or .safetensors")),
        }
    }
}

macro_rules! from_vec {
    ($($variant:ident: $t:ty),*) => {$(
        impl From<Vec<$t>> for ArrayData {
            fn from(v: Vec<$t>) -> Self {
                ArrayData::$variant(v)
            }
        }
    )*};
}
from_vec!(F32: f32, F64: f64, I64: i64, U64: u64);

impl ArrayData {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            ArrayData::F32(v) => v.len(),
            ArrayData::F64(v) => v.len(),
            ArrayData::I64(v) => v.len(),
            ArrayData::U64(v) => v.len(),
        }
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// NumPy's name of the stored element type: `f4`, `f8`, `i8` or `u8`.
    pub fn type_name(&self) -> &'static str {
        match self {
            ArrayData::F32(_) => "f4",
            ArrayData::F64(_) => "f8",
            ArrayData::I64(_) => "i8",
            ArrayData::U64(_) => "u8",
        }
    }

    /// Bytes per element.
    fn width(&self) -> usize {
        if matches!(self, ArrayData::F32(_)) { 4 } else { 8 }
    }

    /// Append all elements, little-endian, bit for bit.
    fn extend_le_bytes(&self, out: &mut Vec<u8>) {
        out.reserve(self.len() * self.width());
        match self {
            ArrayData::F32(v) => v.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
            ArrayData::F64(v) => v.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
            ArrayData::I64(v) => v.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
            ArrayData::U64(v) => v.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        }
    }
}

impl Array {
    /// An array of `shape` over `data` in C order.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the shape does not describe exactly as many elements as there are.
    pub fn new(shape: &[usize], data: impl Into<ArrayData>) -> Result<Self> {
        let data = data.into();
        if element_count(shape) != Some(data.len()) {
            return Err(Error::invalid(
                "array shape",
                format!("{shape:?} for {} elements", data.len()),
                "a shape whose product is the number of elements",
            ));
        }
        Ok(Self { shape: shape.to_vec(), data })
    }

    /// A one-dimensional array.
    pub fn vector(data: impl Into<ArrayData>) -> Self {
        let data = data.into();
        Self { shape: vec![data.len()], data }
    }

    /// Extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements in C order.
    pub fn data(&self) -> &ArrayData {
        &self.data
    }

    /// The elements in C order, moved out.
    pub fn into_data(self) -> ArrayData {
        self.data
    }

    /// The elements as f64. Exact for f32 and for integers up to 2^53 in size; larger ones round to
    /// nearest.
    pub fn to_f64_vec(&self) -> Vec<f64> {
        match &self.data {
            ArrayData::F32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            ArrayData::F64(v) => v.clone(),
            ArrayData::I64(v) => v.iter().map(|&x| x as f64).collect(),
            ArrayData::U64(v) => v.iter().map(|&x| x as f64).collect(),
        }
    }

    /// The elements as integers; `name` is the array's name, for the error.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the array when it holds floats (even whole ones: token ids stored
    /// as floats are a mistake upstream) or an integer above 2^63 - 1.
    pub fn as_integers(&self, name: &str) -> Result<Vec<i64>> {
        let refuse =
            |problem: String| Error::invalid(name, problem, "an integer array within the range of i64");
        match &self.data {
            ArrayData::I64(v) => Ok(v.clone()),
            ArrayData::U64(v) => {
                v.iter().map(|&x| i64::try_from(x).map_err(|_| refuse(format!("holds {x}")))).collect()
            }
            _ => Err(refuse(format!("element type {}", self.data.type_name()))),
        }
    }

    /// True if shape, element type and every bit agree. Unlike `==`, 0 and -0 differ, and a NaN
    /// equals itself.
    pub fn same_bits(&self, other: &Array) -> bool {
        self.shape == other.shape
            && match (&self.data, &other.data) {
                (ArrayData::F32(a), ArrayData::F32(b)) => {
                    a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits()))
                }
                (ArrayData::F64(a), ArrayData::F64(b)) => {
                    a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits()))
                }
                (a, b) => a == b,
            }
    }
}

/// A file of arrays that decodes only those that are taken.
#[derive(Debug)]
pub struct ArrayFile {
    origin: PathBuf,
    format: Format,
    bytes: Vec<u8>,
    names: Vec<String>,
}

impl ArrayFile {
    /// Open a `.npz` or `.safetensors` file and list its arrays.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Format`] when it is neither.
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(path, Format::of(path)?, read_file(path)?)
    }

    /// [`ArrayFile::open`] from bytes in memory; `origin` only names the source in errors.
    ///
    /// # Errors
    /// [`Error::Format`] as [`ArrayFile::open`].
    pub fn parse(origin: &Path, format: Format, bytes: Vec<u8>) -> Result<Self> {
        let names = match format {
            Format::Npz => npz::Npz::open(origin, &bytes)?.names().map(String::from).collect(),
            Format::Safetensors => safetensors::Tensors::open(origin, &bytes)?.names(),
        };
        Ok(ArrayFile { origin: origin.to_path_buf(), format, bytes, names })
    }

    /// Names of the arrays, sorted, whatever they hold.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The arrays called `names`, those that are there. No other array is decoded.
    ///
    /// # Errors
    /// [`Error::Format`] naming an array of these that cannot be held.
    pub fn read(&self, names: &[&str]) -> Result<BTreeMap<String, Array>> {
        let mut found = BTreeMap::new();
        let mut add = |name: &str, array: Option<Array>| {
            found.extend(array.map(|array| (name.to_string(), array)));
        };
        match self.format {
            Format::Npz => {
                let mut file = npz::Npz::open(&self.origin, &self.bytes)?;
                names.iter().try_for_each(|n| file.read(n).map(|a| add(n, a)))?;
            }
            Format::Safetensors => {
                let file = safetensors::Tensors::open(&self.origin, &self.bytes)?;
                names.iter().try_for_each(|n| file.read(n).map(|a| add(n, a)))?;
            }
        }
        Ok(found)
    }

    /// The first array of numbers that is none of `expected`. A name that nobody expects is likely
    /// a slip; an array of texts or dates is not taken for one.
    ///
    /// # Errors
    /// [`Error::Format`] when the file cannot be read.
    pub fn unexpected(&self, expected: &[&str]) -> Result<Option<&str>> {
        let mut others = self.names().filter(|n| !expected.contains(n));
        Ok(match self.format {
            Format::Npz => {
                let mut file = npz::Npz::open(&self.origin, &self.bytes)?;
                others.find(|n| file.is_numeric(n))
            }
            Format::Safetensors => {
                let file = safetensors::Tensors::open(&self.origin, &self.bytes)?;
                others.find(|n| file.is_numeric(n))
            }
        })
    }
}

/// Read every array of a `.npz` or `.safetensors` file.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Format`] for anything in it that is not as
/// described at the top of this module.
pub fn read_arrays(path: &Path) -> Result<BTreeMap<String, Array>> {
    let format = Format::of(path)?;
    parse_arrays(path, format, &read_file(path)?)
}

/// Read the one array of a bare `.npy` file.
///
/// # Errors
/// As [`read_arrays`].
pub fn read_npy(path: &Path) -> Result<Array> {
    npy::parse(&read_file(path)?).map_err(|e| Error::format(path, e.to_string()))
}

/// [`read_arrays`] from bytes in memory; `origin` only names the source in errors.
///
/// # Errors
/// [`Error::Format`] as [`read_arrays`].
pub fn parse_arrays(origin: &Path, format: Format, bytes: &[u8]) -> Result<BTreeMap<String, Array>> {
    match format {
        Format::Npz => {
            let mut file = npz::Npz::open(origin, bytes)?;
            let names: Vec<String> = file.names().map(String::from).collect();
            let mut arrays = BTreeMap::new();
            for name in names {
                arrays.extend(file.read(&name)?.map(|array| (name, array)));
            }
            Ok(arrays)
        }
        Format::Safetensors => safetensors::parse(origin, bytes).map(|(arrays, _)| arrays),
    }
}

/// Read arrays and metadata of a `.safetensors` file in one go; the metadata is empty when it has
/// none.
///
/// # Errors
/// As [`read_arrays`].
pub fn read_safetensors(path: &Path) -> Result<(BTreeMap<String, Array>, BTreeMap<String, String>)> {
    parse_safetensors(path, &read_file(path)?)
}

/// [`read_safetensors`] from bytes in memory.
pub(super) fn parse_safetensors(
    origin: &Path,
    bytes: &[u8],
) -> Result<(BTreeMap<String, Array>, BTreeMap<String, String>)> {
    safetensors::parse(origin, bytes)
}

/// Read only the metadata of a `.safetensors` file; empty when it has none.
///
/// # Errors
/// As [`read_arrays`]. The arrays are not decoded, but the header must describe the file exactly.
pub fn read_safetensors_metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    safetensors::parse_metadata(path, &read_file(path)?)
}

/// Write named arrays to `path`, atomically, in the format its extension names, uncompressed.
///
/// The same arrays give the same bytes, in whatever order they are listed. Metadata goes into the
/// header of a `.safetensors` file, and into the archive comment of a `.npz` file as a JSON object
/// (NumPy ignores it).
///
/// # Errors
/// [`Error::Invalid`] for an empty or repeated name, [`Error::Format`] for an unknown extension or
/// metadata past the format's limit, [`Error::Io`] when the system refuses.
pub fn write_arrays(
    path: &Path,
    arrays: &[(&str, &Array)],
    metadata: Option<&BTreeMap<String, String>>,
) -> Result<()> {
    write_arrays_with(path, arrays, metadata, Compression::None)
}

/// [`write_arrays`] with a choice of compression.
///
/// # Errors
/// As [`write_arrays`].
pub fn write_arrays_with(
    path: &Path,
    arrays: &[(&str, &Array)],
    metadata: Option<&BTreeMap<String, String>>,
    compression: Compression,
) -> Result<()> {
    write_bytes_atomic(path, &encode(path, Format::of(path)?, arrays, metadata, compression)?)
}

/// [`write_arrays`] to a file that must not exist, even if another process makes it meanwhile.
///
/// # Errors
/// As [`write_arrays`]; [`Error::Invalid`] when the file exists.
pub fn write_new_arrays(path: &Path, arrays: &[(&str, &Array)]) -> Result<()> {
    write_new_bytes(path, &encode(path, Format::of(path)?, arrays, None, Compression::None)?)
}

/// The bytes of a file of named arrays, uncompressed; `path` names it in errors.
pub(super) fn encode_arrays(
    path: &Path,
    format: Format,
    arrays: &[(&str, &Array)],
    metadata: Option<&BTreeMap<String, String>>,
) -> Result<Vec<u8>> {
    encode(path, format, arrays, metadata, Compression::None)
}

fn encode(
    path: &Path,
    format: Format,
    arrays: &[(&str, &Array)],
    metadata: Option<&BTreeMap<String, String>>,
    compression: Compression,
) -> Result<Vec<u8>> {
    let mut by_name = BTreeMap::new();
    for &(name, array) in arrays {
        if name.is_empty() || name.contains('\0') || name == safetensors::METADATA_KEY {
            return Err(Error::invalid(
                "array name",
                format!("{name:?}"),
                "a name that is not empty or reserved",
            ));
        }
        if by_name.insert(name, array).is_some() {
            return Err(Error::invalid("array name", format!("`{name}` given twice"), "distinct names"));
        }
    }
    match format {
        Format::Npz => npz::encode(path, &by_name, metadata, compression),
        Format::Safetensors => safetensors::encode(path, &by_name, metadata),
    }
}

/// Fuzz target: no bytes make the readers panic or allocate beyond what the bytes can hold.
///
/// The bytes are read as both formats and as one bare `.npy`, since mutations rarely get past a
/// zip's checksums.
pub fn fuzz_read_arrays(bytes: &[u8]) {
    let origin = Path::new("fuzz");
    for format in [Format::Npz, Format::Safetensors] {
        if let Ok(arrays) = parse_arrays(origin, format, bytes) {
            for (name, array) in &arrays {
                assert_eq!(element_count(&array.shape), Some(array.data.len()), "{name}");
            }
        }
    }
    for format in [Format::Npz, Format::Safetensors] {
        if let Ok(file) = ArrayFile::parse(origin, format, bytes.to_vec()) {
            let names: Vec<&str> = file.names().collect();
            let numeric = matches!(file.unexpected(&[]), Ok(Some(_)));
            // Whatever can be read by its name is an array of numbers.
            assert!(numeric || names.iter().all(|n| file.read(&[n]).is_err()));
        }
    }
    let _ = safetensors::parse_metadata(origin, bytes);
    if let Ok(array) = npy::parse(bytes) {
        assert_eq!(element_count(&array.shape), Some(array.data.len()));
    }
}

/// Product of the extents; `None` when it overflows.
fn element_count(shape: &[usize]) -> Option<usize> {
    // A zero extent empties the array whatever the others are, so it is looked for before
    // multiplying.
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d))
}

/// The bytes of a file of arrays.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>> {
    input::bytes(path, input::ARRAYS)
}
