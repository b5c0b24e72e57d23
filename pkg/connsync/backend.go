package connsync

// Backend is a [Table] that also says what has changed in it.
type Backend interface {
	Table

	// TellNews calls tell with entries that are new or have changed, some
	// ten times a second, and with those that live on before their peers'
	// copies would end. It does so until stop is called, which waits. Send
	// must not wait and may keep the slice.
	TellNews(send func([]Entry)) (stop func())
}
