package keepalived

// LimitPieces lowers how many statements a file may unfold to.
func LimitPieces(n int) { maxPieces = n }
