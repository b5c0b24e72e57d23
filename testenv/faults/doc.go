// Package faults is the table of faults that people met with balancers, and
// the tests that drive lvx with them from outside: by its file, its commands and
// the frames of a segment.
//
// faults.txt says of each kind what went wrong, by which inputs, and which tests
// drive them, wherever they are. The package has no code of its own.
package faults
