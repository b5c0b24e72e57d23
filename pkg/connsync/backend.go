package connsync

import "time"

// MostNews is how many entries a [Backend] tells of at once, at most.
const MostNews = 1 << 17

// Backend is a [Table] that also says what has changed in it.
type Backend interface {
	Table

	// TellNews calls send with entries that are new or have changed, some
	// ten times a second, and with those that live on before their peers'
	// copies would end. It does so until stop is called, which waits. Now
	// tells at once, and reports whether there is more
	// to tell than was told. Send must not wait.
	TellNews(send func(*Batch)) (now func() (more bool), stop func())

	// ExpectNews has the packets of TCP connections that are not known here dropped,
	// for d from now, rather than answered with a reset: this director has just
	// taken VIPs over, and the one that had them may yet tell of its latest
	// connections. Clients repeat what they have sent.
	ExpectNews(d time.Duration) error
}
