//! Rows of a table by index.
use super::*;
op! {
    /// `gather(table: [R, ..], ids: i32[T]): [T, ..]`, `out[t] = table[ids[t]]`. Each index is in `0..R`.
    Gather = "gather"
}
impl OpDef for Gather {
    const CLASS: Class = Class::Rowwise;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [table, ids] = arity(Self::NAME, args)?;
        let ([_, row @ ..], [t], DType::I32) = (&table.shape[..], &ids.shape[..], ids.dtype) else {
            return Err(refuse(
                Self::NAME,
                "wants a table of rank 1 or more and ids: i32[T]",
                args,
            ));
        };
        Ok(Type::new(table.dtype, [t].into_iter().chain(row).cloned()))
    }
    fn eval(&self, args: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> {
        let (table, ids) = (&args[0], &args[1]);
        let width: usize = table.shape[1..].iter().product();
        let mut data = Vec::with_capacity(ids.data.len() * width);
        for id in &ids.data {
            let row = row_index(Self::NAME, *id, table.shape[0])?;
            data.extend_from_slice(&table.data[row * width..][..width]);
        }
        Ok(Tensor::new(out, data))
    }
    fn flops(&self, _: &[Type], _: &Type) -> Dim {
        0.into()
    }
}

/// `id` as an index below `rows`.
pub(super) fn row_index(op: &'static str, id: f64, rows: usize) -> Result<usize, EvalError> {
    let row = id as usize;
    if id < 0.0 || row >= rows {
        return Err(EvalError::Index {
            op,
            index: id as i64,
            rows,
        });
    }
    Ok(row)
}
