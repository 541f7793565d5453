//! Rows of a table by id, and the gradient scattered back without atomics: places are sorted by id here,
//! so that one block adds up all that belongs to an id, in the order of the places.

use crate::machine::{Call, Element, Machine, Memory, Module, check, small};

const THREADS: u32 = 128;

/// A table `(height, width)`, and the rows that are looked up.
#[derive(Debug, Clone, Copy)]
pub struct Embedding<'a> {
    pub element: Element,
    pub height: usize,
    pub width: usize,
    /// Below `height`.
    pub ids: &'a [u32],
}

impl Embedding<'_> {
    fn sizes<M: Machine>(&self, machine: &M) -> Result<(u32, u32, u64), M::Error> {
        if let Some(id) = self.ids.iter().find(|&&id| id as usize >= self.height) {
            return Err(machine.refuse(format!(
                "id {id} is outside a vocabulary of {}",
                self.height
            )));
        }
        Ok((
            small(machine, "places", self.ids.len())?,
            small(machine, "columns", self.width)?,
            self.ids.len() as u64 * self.width as u64 * self.element.bytes(),
        ))
    }

    /// `out (ids, width)` of the element of `table`.
    pub fn gather<M: Machine>(
        &self,
        machine: &M,
        table: Memory,
        out: Memory,
    ) -> Result<(), M::Error> {
        let (places, width, bytes) = self.sizes(machine)?;
        let whole = self.height as u64 * self.width as u64 * self.element.bytes();
        check(
            machine,
            &[
                ("the table", Some(table), whole),
                ("the result", Some(out), bytes),
            ],
        )?;
        if places == 0 {
            return Ok(());
        }
        let ids = machine.numbers(self.ids)?;
        machine.launch(&Call::new(
            Module::Embedding,
            format!("embedding_gather_{}", self.element.name()),
            ([places, 1, 1], THREADS),
            vec![table.into(), ids.into(), width.into(), out.into()],
        ))
    }

    /// Writes the rows of `gradient` of each id, added up, to the table's f32 gradient `(height, width)`,
    /// or adds them to what is there. Rows of no id are left as they are.
    pub fn scatter<M: Machine>(
        &self,
        machine: &M,
        gradient: Memory,
        table: Memory,
        add: bool,
    ) -> Result<(), M::Error> {
        let (_, width, bytes) = self.sizes(machine)?;
        let whole = self.height as u64 * self.width as u64 * 4;
        check(
            machine,
            &[
                ("the gradient", Some(gradient), bytes),
                ("the table's", Some(table), whole),
            ],
        )?;
        let mut order: Vec<u32> = (0..self.ids.len() as u32).collect();
        order.sort_by_key(|&place| self.ids[place as usize]);
        let (mut ids, mut starts) = (Vec::new(), Vec::new());
        for (at, &place) in order.iter().enumerate() {
            let id = self.ids[place as usize];
            if ids.last() != Some(&id) {
                ids.push(id);
                starts.push(at as u32);
            }
        }
        if ids.is_empty() {
            return Ok(());
        }
        starts.push(order.len() as u32);
        machine.launch(&Call::new(
            Module::Embedding,
            format!("embedding_scatter_{}", self.element.name()),
            ([ids.len() as u32, 1, 1], THREADS),
            vec![
                gradient.into(),
                machine.numbers(&ids)?.into(),
                machine.numbers(&starts)?.into(),
                machine.numbers(&order)?.into(),
                width.into(),
                add.into(),
                table.into(),
            ],
        ))
    }
}
