//! JSON functions: `json_get` and its kin, and the operators `->` and `->>`.
//!
//! `json_get` gives text rather than a value of any type: a string as it is, anything else as JSON.

use std::hash::Hash;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, LargeStringArray, StringBuilder,
    UInt64Builder,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DFSchema, Result, ScalarValue, plan_err};
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use serde_json::Value;

/// What is made of the value at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Text,
    Json,
    Str,
    Int,
    Float,
    Bool,
    Contains,
    Length,
}

const FUNCTIONS: [(&str, Kind); 9] = [
    ("json_get", Kind::Text),
    ("json_as_text", Kind::Text),
    ("json_get_json", Kind::Json),
    ("json_get_str", Kind::Str),
    ("json_get_int", Kind::Int),
    ("json_get_float", Kind::Float),
    ("json_get_bool", Kind::Bool),
    ("json_contains", Kind::Contains),
    ("json_length", Kind::Length),
];

/// Functions that make large values out of small ones, beside any memory limit and before any deadline is looked at.
const REFUSED: [&str; 7] = [
    "repeat",
    "lpad",
    "rpad",
    "array_repeat",
    "array_resize",
    "range",
    "generate_series",
];

/// Adds the functions and the operators, and takes away those that no limit holds.
pub(crate) fn register(state: &mut SessionState) -> Result<()> {
    for name in REFUSED {
        state.deregister_udf(name)?;
    }
    for (name, kind) in FUNCTIONS {
        state.register_udf(Arc::new(function(name, kind)))?;
    }
    state.register_expr_planner(Arc::new(Arrows))
}

fn function(name: &'static str, kind: Kind) -> ScalarUDF {
    ScalarUDF::from(JsonFunction {
        name,
        kind,
        signature: Signature::variadic_any(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct JsonFunction {
    name: &'static str,
    kind: Kind,
    signature: Signature,
}

impl ScalarUDFImpl for JsonFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let Some((json, path)) = arguments.split_first() else {
            return plan_err!("{} takes JSON and a path", self.name);
        };
        if !is_text(json) {
            return plan_err!("{} takes JSON as text, not {json}", self.name);
        }
        if let Some(other) = path.iter().find(|ty| !is_text(ty) && !ty.is_integer()) {
            return plan_err!("{}: a path has names and numbers, not {other}", self.name);
        }
        Ok(match self.kind {
            Kind::Text | Kind::Json | Kind::Str => DataType::Utf8,
            Kind::Int => DataType::Int64,
            Kind::Float => DataType::Float64,
            Kind::Bool | Kind::Contains => DataType::Boolean,
            Kind::Length => DataType::UInt64,
        })
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar =
            (arguments.args.iter()).all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if is_scalar { 1 } else { arguments.number_rows };
        let mut columns = Vec::with_capacity(arguments.args.len());
        for argument in arguments.args {
            let array = argument.into_array(rows)?;
            columns.push(cast(&array, &DataType::LargeUtf8)?);
        }
        let texts: Vec<&LargeStringArray> = (columns.iter())
            .filter_map(|column| column.as_any().downcast_ref())
            .collect();
        let array = self.evaluate(&texts, rows);
        match is_scalar {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(
                &array, 0,
            )?)),
            false => Ok(ColumnarValue::Array(array)),
        }
    }
}

fn is_text(ty: &DataType) -> bool {
    matches!(
        ty,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null
    )
}

impl JsonFunction {
    fn evaluate(&self, texts: &[&LargeStringArray], rows: usize) -> ArrayRef {
        macro_rules! build {
            ($builder:expr, $of:expr) => {{
                let mut builder = $builder;
                for row in 0..rows {
                    let found = find(texts, row);
                    builder.append_option(found.as_ref().and_then($of));
                }
                Arc::new(builder.finish())
            }};
        }
        match self.kind {
            Kind::Text => build!(StringBuilder::new(), |value: &Value| match value {
                Value::Null => None,
                Value::String(text) => Some(text.clone()),
                value => Some(value.to_string()),
            }),
            Kind::Json => build!(StringBuilder::new(), |value: &Value| Some(
                value.to_string()
            )),
            Kind::Str => build!(StringBuilder::new(), |value: &Value| value
                .as_str()
                .map(str::to_owned)),
            Kind::Int => build!(Int64Builder::new(), Value::as_i64),
            Kind::Float => build!(Float64Builder::new(), Value::as_f64),
            Kind::Bool => build!(BooleanBuilder::new(), Value::as_bool),
            Kind::Length => build!(UInt64Builder::new(), |value: &Value| match value {
                Value::Array(items) => Some(items.len() as u64),
                Value::Object(members) => Some(members.len() as u64),
                _ => None,
            }),
            Kind::Contains => {
                let mut builder = BooleanBuilder::new();
                for row in 0..rows {
                    builder.append_value(find(texts, row).is_some());
                }
                Arc::new(builder.finish())
            }
        }
    }
}

/// The value at the path of a row; `None` if there is none or the text is no JSON.
fn find(texts: &[&LargeStringArray], row: usize) -> Option<Value> {
    let (json, path) = texts.split_first()?;
    if json.is_null(row) {
        return None;
    }
    let mut value: Value = serde_json::from_str(json.value(row)).ok()?;
    for step in path {
        if step.is_null(row) {
            return None;
        }
        let step = step.value(row);
        value = match value {
            Value::Object(mut members) => members.remove(step)?,
            Value::Array(mut items) => {
                let index = step.parse::<usize>().ok()?;
                (index < items.len()).then(|| items.swap_remove(index))?
            }
            _ => return None,
        };
    }
    Some(value)
}

/// Plans `->` and `->>`.
#[derive(Debug)]
struct Arrows;

impl ExprPlanner for Arrows {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        _: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let function = match expr.op {
            BinaryOperator::Arrow => function("json_get_json", Kind::Json),
            BinaryOperator::LongArrow => function("json_as_text", Kind::Text),
            _ => return Ok(PlannerResult::Original(expr)),
        };
        Ok(PlannerResult::Planned(
            function.call(vec![expr.left, expr.right]),
        ))
    }
}
