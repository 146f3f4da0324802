irdl.dialect @dtile {
}
