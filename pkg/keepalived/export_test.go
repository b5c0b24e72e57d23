package keepalived

// LimitPieces lowers how many statements a file may unfold to.
func LimitPieces(n int) { maxPieces = n }

// Read gives the verdict on every statement of a file without writing what it
// means, which takes most of an import's time.
func Read(files Files, name string, o Options) (Report, error) {
	m, err := read(files, name, o)
	if err != nil {
		return nil, err
	}
	return m.account(), nil
}
