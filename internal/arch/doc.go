// Package arch holds the rules of this repository as tests: which package may
// import which, how long a function and a file may be, what must carry a
// comment, when a test may be skipped, which faults have tests.
//
// It has no code of its own and nothing imports it. A rule that a linter
// could check is here as well when the repository leans on it: the tests run
// wherever Go does.
package arch
