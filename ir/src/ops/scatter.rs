//! A table with some rows replaced.
use super::*;
op! {
    /// `scatter(table: [R, ..], ids: i32[T], rows: [T, ..])`: the table with row `ids[t]` replaced by `rows[t]`.
    /// The indices are distinct and in `0..R`.
    Scatter = "scatter"
}
impl Scatter {
    /// What all rows that are put into a table are rounded to, if they are: all that a state can then hold.
    pub fn rounding(graph: &Graph, table: Value) -> Option<&FakeQuantize> {
        let mut found = None;
        for user in graph.users(table) {
            let (Some(Op::Scatter(_)), [to, _, rows]) = (graph.op(user), graph.args(user)) else {
                continue;
            };
            let Some(Op::FakeQuantize(rounding)) = graph.op(*rows) else {
                return None;
            };
            if *to == table {
                found = Some(rounding);
            }
        }
        found
    }
}
impl OpDef for Scatter {
    const CLASS: Class = Class::Rowwise;
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
        let [table, ids, rows] = arity(Self::NAME, args)?;
        let gathered = Gather.infer(&[table.clone(), ids.clone()])?;
        if gathered != *rows {
            return Err(refuse(
                Self::NAME,
                format!("wants rows of type {gathered}"),
                args,
            ));
        }
        Ok(table.clone())
    }
    fn eval(&self, args: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> {
        let (table, ids, rows) = (&args[0], &args[1], &args[2]);
        let width: usize = table.shape[1..].iter().product();
        let mut data = table.data.clone();
        for (t, id) in ids.data.iter().enumerate() {
            let row = super::gather::row_index(Self::NAME, *id, table.shape[0])?;
            data[row * width..][..width].copy_from_slice(&rows.data[t * width..][..width]);
        }
        Ok(Tensor::new(out, data))
    }
    fn flops(&self, _: &[Type], _: &Type) -> Dim {
        0.into()
    }
}
