//! Batches as bytes: JSON rows or an Arrow IPC stream.

use std::io::{self, Write};

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::arrow::json::writer::{JsonFormat, Writer, WriterBuilder};
use tokio::sync::mpsc;

use crate::error::QueryError;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `{"rows":[…]}`.
    Json,
    /// An Arrow IPC stream.
    Arrow,
}

/// The body of an answer, as it is made. Dropping it ends the query.
#[derive(Debug)]
pub struct Answer {
    first: Option<Bytes>,
    rest: mpsc::Receiver<Result<Bytes, QueryError>>,
}

impl Answer {
    pub(crate) fn new(
        first: Option<Bytes>,
        rest: mpsc::Receiver<Result<Bytes, QueryError>>,
    ) -> Self {
        Self { first, rest }
    }

    /// The next piece; `None` at the end. After an error nothing follows.
    pub async fn next(&mut self) -> Option<Result<Bytes, QueryError>> {
        match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => self.rest.recv().await,
        }
    }
}

/// Writes batches; what is written is taken between them.
pub(crate) enum Encoder {
    Json(Box<Writer<Vec<u8>, Rows>>),
    Arrow(Box<StreamWriter<Vec<u8>>>),
}

impl Encoder {
    pub(crate) fn new(format: Format, schema: &SchemaRef) -> Result<Self, ArrowError> {
        Ok(match format {
            Format::Json => Self::Json(Box::new(WriterBuilder::new().build(Vec::new()))),
            Format::Arrow => Self::Arrow(Box::new(StreamWriter::try_new(Vec::new(), schema)?)),
        })
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<Bytes, ArrowError> {
        match self {
            Self::Json(writer) => writer.write(batch)?,
            Self::Arrow(writer) => writer.write(batch)?,
        }
        Ok(self.take())
    }

    pub(crate) fn finish(&mut self) -> Result<Bytes, ArrowError> {
        match self {
            Self::Json(writer) => writer.finish()?,
            Self::Arrow(writer) => writer.finish()?,
        }
        Ok(self.take())
    }

    fn take(&mut self) -> Bytes {
        let written = match self {
            Self::Json(writer) => writer.get_mut(),
            Self::Arrow(writer) => writer.get_mut(),
        };
        Bytes::from(std::mem::take(written))
    }
}

/// `{"rows":[…]}`.
#[derive(Debug, Default)]
pub(crate) struct Rows;

impl JsonFormat for Rows {
    fn start_stream<W: Write>(&self, writer: &mut W) -> Result<(), ArrowError> {
        put(writer, b"{\"rows\":[")
    }

    fn start_row<W: Write>(&self, writer: &mut W, is_first_row: bool) -> Result<(), ArrowError> {
        match is_first_row {
            true => Ok(()),
            false => put(writer, b","),
        }
    }

    fn end_stream<W: Write>(&self, writer: &mut W) -> Result<(), ArrowError> {
        put(writer, b"]}")
    }
}

fn put<W: Write>(writer: &mut W, bytes: &[u8]) -> Result<(), ArrowError> {
    let written: io::Result<()> = writer.write_all(bytes);
    Ok(written?)
}
