//! Columns: their names and types, and how a row's values get into them.

use std::borrow::Cow;
use std::sync::Arc;

use abide_types::Timestamp;
use datafusion::arrow::array::{
    ArrayRef, BooleanBuilder, DurationMillisecondBuilder, LargeBinaryBuilder, LargeStringBuilder,
    ListBuilder, RecordBatch, RecordBatchOptions, TimestampMillisecondBuilder, UInt32Builder,
    UInt64Builder,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::error::ArrowError;

/// The time zone of all times.
const ZONE: &str = "+00:00";

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ty {
    Text,
    Bytes,
    U32,
    U64,
    Bool,
    Time,
    Duration,
    U32s,
    Texts,
}

impl Ty {
    fn data_type(self) -> DataType {
        let list = |item| DataType::List(Arc::new(Field::new_list_field(item, true)));
        match self {
            Self::Text => DataType::LargeUtf8,
            Self::Bytes => DataType::LargeBinary,
            Self::U32 => DataType::UInt32,
            Self::U64 => DataType::UInt64,
            Self::Bool => DataType::Boolean,
            Self::Time => DataType::Timestamp(TimeUnit::Millisecond, Some(ZONE.into())),
            Self::Duration => DataType::Duration(TimeUnit::Millisecond),
            Self::U32s => list(DataType::UInt32),
            Self::Texts => list(DataType::LargeUtf8),
        }
    }
}

/// A value of a row. What does not fit the column's type is null.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell<'a> {
    Null,
    Text(Cow<'a, str>),
    Bytes(&'a [u8]),
    Number(u64),
    Bool(bool),
    Numbers(Vec<u32>),
    Texts(Vec<String>),
}

/// One column of rows `R`.
pub(crate) struct Column<R: 'static> {
    pub(crate) name: &'static str,
    pub(crate) ty: Ty,
    pub(crate) nullable: bool,
    /// Whether it takes what only leaders know.
    pub(crate) live: bool,
    pub(crate) cell: for<'a> fn(&'a R) -> Cell<'a>,
}

impl<R> Column<R> {
    pub(crate) const fn new(
        name: &'static str,
        ty: Ty,
        cell: for<'a> fn(&'a R) -> Cell<'a>,
    ) -> Self {
        Self {
            name,
            ty,
            nullable: true,
            live: false,
            cell,
        }
    }

    /// A column that takes what only leaders know.
    pub(crate) const fn live(
        name: &'static str,
        ty: Ty,
        cell: for<'a> fn(&'a R) -> Cell<'a>,
    ) -> Self {
        Self {
            live: true,
            ..Self::new(name, ty, cell)
        }
    }

    pub(crate) const fn not_null(mut self) -> Self {
        self.nullable = false;
        self
    }

    /// A column that has no values here.
    pub(crate) const fn null(name: &'static str, ty: Ty) -> Self {
        Self::new(name, ty, |_| Cell::Null)
    }
}

/// The columns of a table.
pub(crate) fn schema_of<R>(columns: &[Column<R>]) -> SchemaRef {
    let field =
        |column: &Column<R>| Field::new(column.name, column.ty.data_type(), column.nullable);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// Rows as a batch of the columns at `projection`; `schema` is theirs.
pub(crate) fn batch<R>(
    schema: &SchemaRef,
    columns: &[Column<R>],
    projection: &[usize],
    rows: &[R],
) -> Result<RecordBatch, ArrowError> {
    let arrays = projection
        .iter()
        .map(|index| array(&columns[*index], rows))
        .collect();
    // A count of rows has no columns.
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(schema.clone(), arrays, &options)
}

fn array<R>(column: &Column<R>, rows: &[R]) -> ArrayRef {
    let cells = rows.iter().map(column.cell);
    macro_rules! build {
        ($builder:expr, $($pattern:pat => $value:expr),+) => {{
            let mut builder = $builder;
            for cell in cells {
                match cell {
                    $($pattern => builder.append_value($value),)+
                    _ => builder.append_null(),
                }
            }
            Arc::new(builder.finish())
        }};
    }
    match column.ty {
        Ty::Text => build!(LargeStringBuilder::new(), Cell::Text(text) => text),
        Ty::Bytes => build!(LargeBinaryBuilder::new(), Cell::Bytes(bytes) => bytes),
        Ty::U32 => build!(UInt32Builder::new(),
            Cell::Number(number) => u32::try_from(number).unwrap_or(u32::MAX)),
        Ty::U64 => build!(UInt64Builder::new(), Cell::Number(number) => number),
        Ty::Bool => build!(BooleanBuilder::new(), Cell::Bool(is) => is),
        Ty::Time => build!(TimestampMillisecondBuilder::new().with_timezone(ZONE),
            Cell::Number(millis) => signed(millis)),
        Ty::Duration => build!(DurationMillisecondBuilder::new(),
            Cell::Number(millis) => signed(millis)),
        Ty::U32s => build!(ListBuilder::new(UInt32Builder::new()),
            Cell::Numbers(numbers) => numbers.into_iter().map(Some)),
        Ty::Texts => build!(ListBuilder::new(LargeStringBuilder::new()),
            Cell::Texts(texts) => texts.into_iter().map(Some)),
    }
}

fn signed(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

impl<'a> From<&'a str> for Cell<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl<'a> From<&'a String> for Cell<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Cell<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl<'a> From<&'a [u8]> for Cell<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<u32> for Cell<'_> {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<u64> for Cell<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Cell<'_> {
    fn from(is: bool) -> Self {
        Self::Bool(is)
    }
}

impl From<Timestamp> for Cell<'_> {
    fn from(at: Timestamp) -> Self {
        Self::Number(at.0)
    }
}

impl From<Vec<u32>> for Cell<'_> {
    fn from(numbers: Vec<u32>) -> Self {
        Self::Numbers(numbers)
    }
}

impl From<Vec<String>> for Cell<'_> {
    fn from(texts: Vec<String>) -> Self {
        Self::Texts(texts)
    }
}

impl<'a, T: Into<Cell<'a>>> From<Option<T>> for Cell<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Milliseconds, 0 standing for none.
pub(crate) fn at(millis: u64) -> Cell<'static> {
    match millis {
        0 => Cell::Null,
        millis => Cell::Number(millis),
    }
}
