package mysql

// FormatFunction writes a number with a precision.
type FormatFunction func(number, precision string) (string, error)

// GetLocaleFormatFunction returns the format function of a locale.
func GetLocaleFormatFunction(locale string) FormatFunction {
	return func(number, precision string) (string, error) {
		text, _, err := FormatByLocale(number, precision, locale)
		return text, err
	}
}
