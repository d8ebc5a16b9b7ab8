//! `#[derive(Mirror)]`: a Rust struct that names the members it wants of a kernel structure.
//!
//! ```ignore
//! #[derive(Mirror)]
//! #[mirror(c = "struct task_struct")]
//! struct Task {
//!     pid: i32,
//!     comm: FixedStr<16>,
//!     #[mirror(member = "se.vruntime")]
//!     vruntime: u64,
//!     #[mirror(member = "__state", or = "state")]
//!     state: u64,
//!     user_cpus_ptr: Option<GuestVirt>,
//! }
//! ```
//!
//! The derived code asks a resolver for each member in order, once for a kernel, and takes each from a
//! decoder in the same order, once for an object; what the types mean is in `probes::object::Mirror`.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{ToTokens, quote};
use syn::{Attribute, Data, DeriveInput, Error, Field, Fields, LitStr, Result};

/// Derives `probes::object::Mirror` for a struct with named fields.
///
/// On the struct: `#[mirror(c = "struct task_struct")]`, the C type. On a field: `#[mirror(member = "a.b")]`, the
/// path of the member if it is not the field's name, and `or = ".."` any number of times, the paths to try where a
/// kernel lacks the first.
#[proc_macro_derive(Mirror, attributes(mirror))]
pub fn mirror(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as DeriveInput);
    derive(&input)
        .unwrap_or_else(Error::into_compile_error)
        .into()
}

fn derive(input: &DeriveInput) -> Result<Tokens> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(
            input,
            "only a struct mirrors a C structure",
        ));
    };
    let Fields::Named(fields) = &data.fields else {
        return Err(Error::new_spanned(
            &input.ident,
            "a mirror names its members: use a struct with named fields",
        ));
    };
    let mut c_type = None;
    values(&input.attrs, &["c"], |_, value| c_type = Some(value))?;
    let c_type = c_type.ok_or_else(|| {
        Error::new_spanned(
            &input.ident,
            "say which C type this mirrors: #[mirror(c = \"struct task_struct\")]",
        )
    })?;
    if let Some(parameter) = input.generics.params.first() {
        return Err(Error::new_spanned(
            parameter,
            "a mirror has no generic parameters",
        ));
    }
    let paths = fields
        .named
        .iter()
        .map(member_paths)
        .collect::<Result<Vec<_>>>()?;
    let names: Vec<_> = fields.named.iter().map(|field| &field.ident).collect();
    let types: Vec<_> = fields.named.iter().map(|field| &field.ty).collect();
    let name = &input.ident;
    Ok(quote! {
        #[automatically_derived]
        impl ::probes::object::Mirror for #name {
            const C: &'static str = #c_type;

            fn resolve(resolver: &mut ::probes::object::Resolver<'_>) -> ::probes::Result<()> {
                #( resolver.member::<#types>(&[#paths])?; )*
                ::core::result::Result::Ok(())
            }

            #[inline]
            fn decode(decoder: &mut ::probes::object::Decoder<'_>) -> Self {
                Self { #( #names: <#types as ::probes::object::MirrorField>::decode(decoder), )* }
            }
        }
    })
}

/// The paths of a field's member, the preferred one first.
fn member_paths(field: &Field) -> Result<Paths> {
    let mut member = None;
    let mut others = Vec::new();
    values(&field.attrs, &["member", "or"], |key, value| {
        if key == "or" {
            others.push(value)
        } else {
            member = Some(value)
        }
    })?;
    let first = member.unwrap_or_else(|| {
        let name = field
            .ident
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        LitStr::new(
            name.trim_start_matches("r#"),
            proc_macro2::Span::call_site(),
        )
    });
    Ok(Paths(std::iter::once(first).chain(others).collect()))
}

struct Paths(Vec<LitStr>);

impl ToTokens for Paths {
    fn to_tokens(&self, tokens: &mut Tokens) {
        let paths = &self.0;
        tokens.extend(quote!(#(#paths),*));
    }
}

/// Calls `each` with every `key = "value"` of the `#[mirror(..)]` attributes.
fn values(attrs: &[Attribute], keys: &[&str], mut each: impl FnMut(&str, LitStr)) -> Result<()> {
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("mirror")) {
        attr.parse_nested_meta(|meta| {
            let Some(key) = keys.iter().find(|key| meta.path.is_ident(key)) else {
                return Err(meta.error(format!("expected {} = \"..\"", keys.join(" or "))));
            };
            each(key, meta.value()?.parse()?);
            Ok(())
        })?;
    }
    Ok(())
}
