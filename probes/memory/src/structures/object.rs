//! Lists of objects: the structures that an [`Object`] is the head of.

use super::{list_for_each_entry, offset_of};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Object, Objects};
use crate::view::{ListRing, RingNode};
use crate::{Error, Listing, Result};

impl Object {
    /// The objects on the list that this is the head of: `list_for_each_entry(pos, head, member)`, where `pos` is of
    /// type `c_type`.
    ///
    /// # Errors
    /// `Invalid` if it is no `list_head`; `Absent` if `c_type` has no such member; `Broken` if the walk comes back to
    /// anything but the head, or meets its bound.
    pub fn list(&self, c_type: &str, member: &str) -> Result<Objects> {
        let (head, offset) = self.list_head(c_type, member)?;
        let kernel = self.kernel();
        let objects: Result<Vec<Self>> = list_for_each_entry(kernel, head, offset)
            .map(|at| Self::at(kernel, c_type, at?))
            .collect();
        Ok(Listing::from(objects?))
    }

    /// The same list as the ring that it is, each node labelled by `label`.
    ///
    /// # Errors
    /// As [`list`](Self::list); those of `label`.
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

impl ListRing {
    /// Walks the list at `head` and labels each node by `label`, which is given the container's address.
    ///
    /// `container` and `member` name the structure and the `list_head` in it, `offset` is the member's in bytes.
    ///
    /// # Errors
    /// `Broken` if the walk comes back to anything but the head, or meets its bound; those of `label`.
    pub fn walk(
        kernel: &Kernel,
        head: (GuestVirt, &str),
        (container, member, offset): (&str, &str, u64),
        mut label: impl FnMut(GuestVirt) -> Result<String>,
    ) -> Result<Self> {
        let mut nodes = Vec::new();
        for at in list_for_each_entry(kernel, head.0, offset) {
            let at = at?;
            nodes.push(RingNode {
                at: at.offset(offset),
                container: at,
                label: label(at)?,
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
        })
    }
}
