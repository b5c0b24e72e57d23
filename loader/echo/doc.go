// Package echo proves that frames which XDP sends by an interface leave it. Some
// drivers take such frames and drop them: everything looks well, and nothing is
// forwarded.
//
// A program sends the answer to an echo of this host's back as another echo: if
// that is answered, too, it was sent. The package attaches nothing itself and
// decides nothing; where no neighbour answers echoes it proves nothing.
package echo
