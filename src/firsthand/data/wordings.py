"""Six wordings of every kind of task (tasks.py): four to learn from, one to validate, and one to test."""

WORDINGS = {
    "reverse": """
        Spell the word '{0}' backwards.
        Write '{0}' with its letters in reverse order.
        Reverse the letters of '{0}'.
        What is '{0}' spelled backwards?
        Turn the word '{0}' around, from its last letter to its first.
        How does '{0}' read from right to left?
    """,
    "upper case": """
        Write the word '{0}' in capital letters.
        Convert '{0}' to upper case.
        Put '{0}' in all caps.
        Change every letter of '{0}' to a capital.
        Capitalize all letters of '{0}'.
        Shout '{0}' by writing it in big letters only.
    """,
    "lower case": """
        Write the word '{0}' in small letters.
        Convert '{0}' to lower case.
        Put '{0}' in lowercase.
        Change every letter of '{0}' to a small one.
        Make all letters of '{0}' lowercase.
        Write '{0}' again, without any capitals.
    """,
    "count letters": """
        How many letters are in the word '{0}'?
        Count the letters of '{0}'.
        How long is the word '{0}', in letters?
        Give the number of letters in '{0}'.
        Tell me how many letters '{0}' has.
        The word '{0}' consists of how many letters?
    """,
    "count one letter": """
        How many times does the letter '{0}' occur in '{1}'?
        Count the letter '{0}' in the word '{1}'.
        How often is '{0}' used in '{1}'?
        Give the number of '{0}'s in '{1}'.
        Find how many '{0}' there are in '{1}'.
        In '{1}', the letter '{0}' stands how often?
    """,
    "last letter": """
        What is the last letter of '{0}'?
        Give the final letter of the word '{0}'.
        Which letter does '{0}' end with?
        Name the letter at the end of '{0}'.
        Write down the letter that '{0}' finishes with.
        The word '{0}' closes with which letter?
    """,
    "without vowels": """
        Remove the vowels from '{0}'.
        Write '{0}' without its vowels.
        Delete every vowel of the word '{0}'.
        Leave out a, e, i, o and u: '{0}'.
        Drop all vowels in '{0}'.
        What is left of '{0}' once its vowels are gone?
    """,
    "sort words": """
        Sort these words alphabetically: {0}.
        Put the words in alphabetical order: {0}.
        Arrange from A to Z: {0}.
        Order these words by the alphabet: {0}.
        List the following words alphabetically: {0}.
        In which order would a dictionary have these: {0}?
    """,
    "initials": """
        Write the initials of these words in capitals: {0}.
        Make an acronym of: {0}.
        Take the first letter of every word, in capitals: {0}.
        What acronym do these words form: {0}?
        Abbreviate to first letters, in capitals: {0}.
        Which capitals abbreviate the phrase {0}?
    """,
    "sort numbers": """
        Sort these numbers from smallest to largest: {0}.
        Put the numbers in ascending order: {0}.
        Arrange in increasing order: {0}.
        Order these numbers, the smallest first: {0}.
        List the following numbers in rising order: {0}.
        Count up through these numbers: {0}.
    """,
    "largest": """
        Which number is the largest: {0}?
        Find the maximum of {0}.
        What is the biggest of these numbers: {0}?
        Name the greatest number among {0}.
        Pick the highest number: {0}.
        Of {0}, no other is as large as which one?
    """,
    "add": """
        What is {0} + {1}?
        Add {0} and {1}.
        Calculate the sum of {0} and {1}.
        How much is {0} plus {1}?
        Compute {0} + {1}.
        If you have {0} and get {1} more, how many do you have?
    """,
    "subtract": """
        What is {0} - {1}?
        Subtract {1} from {0}.
        Calculate the difference of {0} and {1}.
        How much is {0} minus {1}?
        Compute {0} - {1}.
        If you have {0} and give away {1}, how many are left?
    """,
    "multiply": """
        What is {0} * {1}?
        Multiply {0} by {1}.
        Calculate the product of {0} and {1}.
        How much is {0} times {1}?
        Compute {0} * {1}.
        How many are {0} boxes of {1} eggs, in eggs?
    """,
    "even or odd": """
        Is {0} even or odd?
        Say whether {0} is even or odd.
        Classify {0} as even or odd.
        Decide: is the number {0} odd or even?
        Even or odd: {0}?
        Tell me the parity of {0}, in one word: odd or even.
    """,
    "roman": """
        Write {0} as a Roman numeral.
        Convert {0} to Roman numerals.
        What is {0} in Roman numerals?
        Give the Roman numeral for {0}.
        Express the number {0} in Roman numerals.
        How would a Roman have carved {0}?
    """,
    "convert units": """
        Convert {0} {1} to {2}.
        How many {2} are {0} {1}?
        Express {0} {1} in {2}.
        What is {0} {1} in {2}? Give the number.
        Change {0} {1} into {2}.
        {0} {1} make up how many {2}?
    """,
    "months": """
        Which month comes {1} months after {0}?
        What month is {1} months later than {0}?
        Start at {0} and go {1} months forward. Which month is it?
        Name the month {1} months after {0}.
        It is {0}. What month will it be in {1} months?
        From {0}, count {1} months ahead: where do you land?
    """,
    "days": """
        Which day comes {1} days after {0}?
        What day is {1} days later than {0}?
        Start at {0} and go {1} days forward. Which day is it?
        Name the day {1} days after {0}.
        It is {0}. What day will it be in {1} days?
        From {0}, count {1} days ahead: where do you land?
    """,
    "antonym": """
        What is the opposite of '{0}'?
        Give an antonym of '{0}'.
        Name the word that means the opposite of '{0}'.
        Write the antonym of the word '{0}'.
        Which word is opposite in meaning to '{0}'?
        If something is not '{0}' at all but the contrary, what is it?
    """,
    "synonym": """
        Which of these words means the same as '{0}': {1}?
        Choose the synonym of '{0}': {1}.
        Pick the word closest in meaning to '{0}': {1}.
        Select the word that is similar to '{0}': {1}.
        Find the synonym for '{0}' among {1}.
        Instead of '{0}', which could one say: {1}?
    """,
    "plural": """
        What is the plural of '{0}'?
        Give the plural form of '{0}'.
        Write the plural of the noun '{0}'.
        Turn '{0}' into its plural.
        Form the plural: '{0}'.
        One '{0}', two what?
    """,
    "past tense": """
        What is the past tense of '{0}'?
        Give the simple past of '{0}'.
        Write the verb '{0}' in the past tense.
        Turn '{0}' into the past tense.
        Form the simple past: '{0}'.
        Today I {0}; what did I do yesterday, in one word?
    """,
}
