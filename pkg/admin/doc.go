// Package admin is how people and programs talk to the daemon: a JSON API
// over a unix socket with its client, Prometheus metrics and a plain status
// page.
//
// It decides nothing and keeps nothing: every answer is the director's at
// that moment. Whoever may open the socket may read; changes need uid 0 on
// the other end (SO_PEERCRED). The TCP listener answers GET for metrics and
// the status page, and nothing else. The trap: names, reasons and details
// can hold text from outside, so a page escapes and bounds all of it.
package admin
