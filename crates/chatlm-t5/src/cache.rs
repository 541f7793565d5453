//! Keys and values of what the decoder has already seen. Self-attention's grow in place with
//! doubled room, cross-attention's are computed once.

use candle_core::{Result, Tensor};

/// One growing tensor `(batch, heads, length, width)`.
#[derive(Debug, Clone)]
struct Growing {
    room: Tensor,
}

impl Growing {
    /// Writes `part (batch, heads, 1, width)` at `length` and answers everything up to it.
    fn push(&mut self, part: &Tensor, length: usize) -> Result<Tensor> {
        if length == self.room.dim(2)? {
            let (batch, heads, _, width) = self.room.dims4()?;
            let room = Tensor::zeros(
                (batch, heads, (2 * length).max(16), width),
                self.room.dtype(),
                self.room.device(),
            )?;
            if length > 0 {
                room.slice_set(&self.room, 2, 0)?;
            }
            self.room = room;
        }
        self.room.slice_set(&part.contiguous()?, 2, length)?;
        self.room.narrow(2, 0, length + 1)
    }
}

/// One decoder layer's keys and values.
#[derive(Debug, Clone)]
pub(crate) struct LayerCache {
    key: Growing,
    value: Growing,
    /// (batch, heads, source, width)
    pub(crate) cross_key: Tensor,
    pub(crate) cross_value: Tensor,
}

impl LayerCache {
    pub(crate) fn new(cross_key: Tensor, cross_value: Tensor) -> Result<Self> {
        let (batch, heads, _, width) = cross_key.dims4()?;
        let empty = || -> Result<Growing> {
            let room = Tensor::zeros(
                (batch, heads, 0, width),
                cross_key.dtype(),
                cross_key.device(),
            )?;
            Ok(Growing { room })
        };
        Ok(Self {
            key: empty()?,
            value: empty()?,
            cross_key,
            cross_value,
        })
    }

    pub(crate) fn push(
        &mut self,
        key: &Tensor,
        value: &Tensor,
        length: usize,
    ) -> Result<(Tensor, Tensor)> {
        Ok((self.key.push(key, length)?, self.value.push(value, length)?))
    }
}

/// The decoder's memory between steps.
#[derive(Debug, Clone)]
pub struct Cache {
    pub(crate) layers: Vec<LayerCache>,
    /// (batch, source), 1 where real.
    pub(crate) mask: Tensor,
    pub(crate) length: usize,
}

impl Cache {
    /// Steps done.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Keeps only the given batch rows, in the given order.
    pub fn select(&mut self, rows: &Tensor) -> chatlm_job::Result<()> {
        self.select_rows(rows).map_err(crate::tensor_error)
    }

    fn select_rows(&mut self, rows: &Tensor) -> Result<()> {
        for layer in &mut self.layers {
            for tensor in [
                &mut layer.key.room,
                &mut layer.value.room,
                &mut layer.cross_key,
                &mut layer.cross_value,
            ] {
                *tensor = tensor.index_select(rows, 0)?;
            }
        }
        self.mask = self.mask.index_select(rows, 0)?;
        Ok(())
    }
}
