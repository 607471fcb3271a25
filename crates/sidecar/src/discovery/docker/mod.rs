//! Temporary seam.
#[derive(Debug,Clone,PartialEq,Eq)] pub enum Endpoint { Unix(std::path::PathBuf), Tcp{host:String,port:u16} }
#[derive(Debug)] pub struct InvalidEndpoint;
impl Endpoint { pub fn parse(t:&str)->Result<Self,InvalidEndpoint>{ if let Some(p)=t.strip_prefix("unix://"){return Ok(Self::Unix(p.into()))} if let Some(r)=t.strip_prefix("tcp://"){ let (h,p)=r.split_once(':').ok_or(InvalidEndpoint)?; return Ok(Self::Tcp{host:h.into(),port:p.parse().map_err(|_|InvalidEndpoint)?})} Err(InvalidEndpoint)} }
