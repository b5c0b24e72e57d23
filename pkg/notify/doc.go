// Package notify tells people and their scripts what changed: by running
// programs, by mail and by a webhook.
//
// Telling never holds up the caller: [Notifier.Notify] returns at once, every
// way of telling has a queue and workers of its own, and what does not fit is
// dropped and counted. A program may act on what it hears, so it hears of each
// change at once, about one thing in order; if the thing changes again while
// the program runs, the next run tells the latest state. A mail or a post is
// for people: a thing that changes often is told of once per
// [Options.Interval], with its latest state. The package does not decide what
// is worth telling and does not keep history.
//
// An event may carry commands of its own ([Event.Commands]): a service's or a
// virtual router's hooks. They are run at once, those of one subject one after
// the other, and get the same environment.
//
// A program gets no arguments besides its own; the event is in its
// environment:
//
//	LVX_KIND     real, service, vrrp or director
//	LVX_NAME     what changed: 172.25.0.12:80, web, VI_1
//	LVX_SERVICE  the service that a real belongs to, or the service itself
//	LVX_REAL     the real, if it is one that changed
//	LVX_OLD      the state before: up, down, MASTER, BACKUP, FAULT ...
//	LVX_NEW      the state now
//	LVX_REASON   why, in words
//	LVX_TIME     when, RFC 3339 with the zone
//	LVX_HOST     the director that says so
//	LVX_CHANGES  how many changes this tells of; more than 1 if the thing changed while the program ran
//	LVX_TEXT     all of it in one line
//
// A webhook gets the same as a JSON document with the keys kind, name,
// service, real, old, new, reason, time, host, changes and text. All texts
// are at most 200 printable bytes (see pkg/guard).
package notify
