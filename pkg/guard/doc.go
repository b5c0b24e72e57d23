// Package guard keeps what comes from outside at arm's length: [Text] bounds
// and cleans text that a server or a script wrote before it reaches a log, a
// mail or a page, and [Program] runs a program of the operator's, without a
// shell, only if nobody but root can have changed it, for a bounded time.
//
// It knows nothing of checks or notifications, and it refuses to search
// PATH, to expand anything and to pass its own environment on.
package guard
