// Package guard keeps what comes from outside at arm's length: [Text] bounds
// and cleans text that a server or a script wrote before it reaches a log, a
// mail or a page; [Program] runs a program of the operator's, without a
// shell, only if nobody but root can have changed it, for a bounded time; and
// [ReadFile], [ReadSecret] and [ReadNumber] read a file that the operator names,
// up to a length.
//
// It knows nothing of checks or notifications, and it refuses to search
// PATH, to expand anything, to pass its own environment on, and to wait for a
// pipe or a device.
package guard
