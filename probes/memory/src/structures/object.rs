//! Lists of objects: the structures that an [`Object`] is the head of.

use super::{list_both_ways, offset_of};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Object, Objects};
use crate::view::{ListRing, RingNode};
use crate::{Error, ErrorKind, Listing, Of as _, Result};

impl Object {
    /// The objects on the list that this is the head of: `list_for_each_entry(pos, head, member)`, where `pos` is of
    /// type `c_type`.
    ///
    /// # Errors
    /// `Invalid` if it is no `list_head`; `Absent` if `c_type` has no such member. A broken link is a part that is missing.
    pub fn list(&self, c_type: &str, member: &str) -> Result<Objects> {
        let (head, offset) = self.list_head(c_type, member)?;
        let kernel = self.kernel();
        let (found, _) = list_both_ways(kernel, head, offset, "the list");
        let objects = found.items.into_iter();
        let objects = objects.map(|at| Self::at(kernel, c_type, at));
        Ok(Listing {
            items: objects.collect::<Result<Vec<Self>>>()?,
            missing: found.missing,
        })
    }

    /// The same list as the ring that it is, each node labelled by `label`.
    ///
    /// # Errors
    /// As [`list`](Self::list), and as [`ListRing::walk`].
    pub fn ring(
        &self,
        c_type: &str,
        member: &str,
        mut label: impl FnMut(&Self) -> Result<String>,
    ) -> Result<ListRing> {
        let (head, offset) = self.list_head(c_type, member)?;
        let kernel = self.kernel();
        let symbols = kernel.symbols()?;
        let name = symbols
            .at(head)
            .map_or_else(|| head.to_string(), |symbol| symbol.name.to_string());
        ListRing::walk(kernel, (head, &name), (c_type, member, offset), |at| {
            label(&Self::at(kernel, c_type, at)?)
        })
    }

    /// The head's address and the member's offset in bytes.
    fn list_head(&self, c_type: &str, member: &str) -> Result<(GuestVirt, u64)> {
        let head = match (self.address(), self.type_name().as_str()) {
            (Some(at), "struct list_head") => at,
            (_, "struct list_head *") => self.pointer()?,
            (_, other) => {
                return Err(Error::Invalid(format!(
                    "a list begins at a `struct list_head`, and this is `{other}`"
                )));
            }
        };
        Ok((head, offset_of(self.kernel(), c_type, member)?))
    }
}

/// Tells whether an error is of what lies in the guest's memory: neither of the question nor of the source.
fn is_of_memory(error: &Error) -> bool {
    let kind = error.kind();
    !kind.is_of_the_source() && !matches!(kind, ErrorKind::Absent | ErrorKind::Invalid)
}

impl ListRing {
    /// Walks the list at `head` and labels each node by `label`, which is given the container's address. A broken link, or a label
    /// that cannot be read, is a part that is missing.
    ///
    /// `container` and `member` name the structure and the `list_head` in it, `offset` is the member's in bytes.
    ///
    /// # Errors
    /// Those of `label` that are of the question (a member that there is not), or of the source.
    pub fn walk(
        kernel: &Kernel,
        head: (GuestVirt, &str),
        (container, member, offset): (&str, &str, u64),
        mut label: impl FnMut(GuestVirt) -> Result<String>,
    ) -> Result<Self> {
        let (found, broken) = list_both_ways(kernel, head.0, offset, "the list");
        let mut missing = found.missing;
        let mut nodes = Vec::with_capacity(found.items.len());
        for at in found.items {
            let label = match label(at) {
                Err(error) if !is_of_memory(&error) => return Err(error),
                label => label.or_miss(&mut missing, || format!("the {container} at {at}")),
            };
            nodes.push(RingNode {
                at: at.offset(offset),
                container: at,
                label: label.unwrap_or_else(|| "?".to_owned()),
            });
        }
        let head = RingNode {
            at: head.0,
            container: head.0,
            label: head.1.to_owned(),
        };
        Ok(Self {
            head,
            container: container.to_owned(),
            member: member.to_owned(),
            nodes,
            broken,
            missing,
        })
    }
}
