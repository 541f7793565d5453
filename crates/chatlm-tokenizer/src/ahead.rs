//! Reading that runs ahead of the work, on a thread of its own.

use std::sync::mpsc::sync_channel;

use chatlm_job::Result;

/// Batches that may wait for the work.
const WAITING: usize = 2;

/// Hands items to `work` in batches of about `size` by `weight`, in order. Stops at the first error of
/// either side.
pub(crate) fn ahead<T: Send>(
    mut items: impl Iterator<Item = Result<T>> + Send,
    weight: impl Fn(&T) -> usize + Send,
    size: usize,
    mut work: impl FnMut(Vec<T>) -> Result<()>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let (sender, batches) = sync_channel::<Result<Vec<T>>>(WAITING);
        scope.spawn(move || {
            loop {
                let batch = batch(&mut items, &weight, size);
                let failed = batch.is_err();
                let ended = batch.as_ref().is_ok_and(Vec::is_empty);
                if ended || sender.send(batch).is_err() || failed {
                    return;
                }
            }
        });
        for batch in batches {
            work(batch?)?;
        }
        Ok(())
    })
}

/// Some items; none at the end.
fn batch<T>(
    items: &mut impl Iterator<Item = Result<T>>,
    weight: &impl Fn(&T) -> usize,
    size: usize,
) -> Result<Vec<T>> {
    let (mut batch, mut weighed) = (Vec::new(), 0);
    while weighed < size {
        let Some(item) = items.next().transpose()? else {
            break;
        };
        weighed += weight(&item);
        batch.push(item);
    }
    Ok(batch)
}
