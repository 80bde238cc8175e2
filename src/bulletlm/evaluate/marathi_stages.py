"""Marathi for texts that reach the report as finished English sentences, from other stages and from report.json.

English text -> translation, with the same names in braces; `Words.finished` finds the template that matches a text.
"""

STAGES: dict[str, str] = {
    # rules of cleaning that change text
    "joined the lines of a paragraph that was wrapped at a fixed width": "ठरावीक रुंदीवर तोडलेल्या परिच्छेदाच्या ओळी जोडल्या",
    "paragraphs of more than max_chars split at the ends of sentences": "max_chars पेक्षा मोठे परिच्छेद वाक्यांच्या शेवटी विभागले",
    "HTML entities decoded": "HTML चिन्हांची खरी अक्षरे केली",
    "repaired UTF-8 that was decoded with another code page": "चुकीच्या संकेतनात वाचलेला UTF-8 मजकूर दुरुस्त केला",
    "HTML tags, wiki and Markdown marks removed": "HTML टॅग, विकी आणि मार्कडाउनच्या खुणा काढल्या",
    "private-use bullet characters removed": "एकाच फॉन्टमध्ये दिसणारी यादीची चिन्हे काढली",
    "rows of one repeated symbol shortened: ------ ...... !!!!!!": "एकाच चिन्हाच्या लांब रांगा छोट्या केल्या: ------ ...... !!!!!!",
    "byte order marks (U+FEFF) removed": "बाइट-क्रमाच्या खुणा (U+FEFF) काढल्या",
    "control characters and noncharacters removed": "नियंत्रण-चिन्हे आणि अक्षर नसलेली चिन्हे काढली",
    "invisible characters removed; joiners stay where a script or an emoji needs them": (
        "न दिसणारी चिन्हे काढली; लिपीला किंवा इमोजीला लागणारी जोडचिन्हे ठेवली"
    ),
    "converted to Unicode NFC": "युनिकोड NFC रूपात आणले",
    "letters with two encodings unified (अॅ ॲ, र्\u200d ऱ्)": "दोन प्रकारे लिहिली जाणारी अक्षरे एकसारखी केली (अॅ ॲ, र्\u200d ऱ्)",
    "tabs, no-break spaces and repeated spaces replaced by one space, line ends stripped": (
        "टॅब आणि जास्तीच्या रिकाम्या जागांऐवजी एक जागा ठेवली, ओळींच्या शेवटच्या जागा काढल्या"
    ),
    "repaired Devanagari that was broken by a font conversion (उद्भ्ावत, मंुबई, लाभाथ्र्य)": (
        "फॉन्ट बदलताना बिघडलेले देवनागरी दुरुस्त केले (उद्भ्ावत, मंुबई, लाभाथ्र्य)"
    ),
    "e-mail addresses replaced by [email]": "ई-मेल पत्त्यांऐवजी [email] ठेवले",
    "phone numbers replaced by [phone]": "फोन क्रमांकांऐवजी [phone] ठेवले",
    "long digit strings replaced by [number]": "लांब अंकांऐवजी [number] ठेवले",
    "messages left out of a conversation: empty ones, answers before the first question, questions after the last answer": (
        "संवादातून वगळलेले संदेश: रिकामे, पहिल्या प्रश्नाआधीची उत्तरे, शेवटच्या उत्तरानंतरचे प्रश्न"
    ),
    # rules of cleaning that reject text
    "lines that are not UTF-8": "UTF-8 नसलेल्या ओळी",
    "lines of more than 16 MB": "16 MB पेक्षा मोठ्या ओळी",
    "lines that are not JSON": "JSON नसलेल्या ओळी",
    "JSON that is not an object": "ऑब्जेक्ट नसलेले JSON",
    "messages must be a list of {{role: system, user or assistant; content: text}}": (
        "संदेशांची यादी {{role: system, user किंवा assistant; content: मजकूर}} अशी हवी"
    ),
    "a prompt or instruction needs a response or output, as text": "प्रश्नासोबत उत्तर हवे, तेही मजकूर म्हणून",
    "rows of an unknown layout; data.sources[].columns maps it": "अनोळखी मांडणीच्या ओळी; data.sources[].columns मध्ये मांडणी सांगता येते",
    "rows of a table with more or fewer cells than the others": "इतरांपेक्षा कमी-जास्त रकाने असलेल्या तक्त्याच्या ओळी",
    "rows of a table in which a text cell is empty": "मजकुराचा रकाना रिकामा असलेल्या तक्त्याच्या ओळी",
    "lines of subtitles without a time": "वेळ नसलेल्या उपशीर्षकांच्या ओळी",
    "questions in a list that have no answer": "यादीतील उत्तर नसलेले प्रश्न",
    "system notices in an exported chat": "चॅटमधील यंत्रणेच्या सूचना",
    "placeholders for pictures, audio and files in an exported chat": "चॅटमधील चित्रे, आवाज आणि फाइल यांच्या जागा",
    "deleted messages in an exported chat": "चॅटमधील पुसलेले संदेश",
    "pages of a wiki that take the parser too long or too much memory": "वाचायला फार वेळ किंवा स्मृती लागणारी विकी-पाने",
    "page numbers, and lines at the top or bottom of a PDF that are repeated on many pages": (
        "पृष्ठ-क्रमांक, आणि PDF च्या अनेक पृष्ठांवर वर किंवा खाली पुन्हा येणाऱ्या ओळी"
    ),
    "header, credits and licence of Project Gutenberg": "प्रोजेक्ट गुटेनबर्गची प्रस्तावना, श्रेय आणि परवाना",
    "U+FFFD, an unpaired surrogate, or a control character of a legacy code page in a word: letters are lost": (
        "शब्दात U+FFFD, अर्धे सरोगेट किंवा जुने नियंत्रण-चिन्ह: अक्षरे हरवली आहेत"
    ),
    "text decoded with the wrong code page that cannot be repaired": "चुकीच्या संकेतनात वाचलेला, दुरुस्त न होणारा मजकूर",
    "private-use letters, which only one font can display": "एकाच फॉन्टमध्ये दिसणारी अक्षरे",
    "lines that are empty after the changes, such as a line of control characters": "बदलांनंतर रिकाम्या झालेल्या ओळी",
    "paragraphs that are too short": "फार छोटे परिच्छेद",
    "paragraphs that are too long and cannot be split, such as encoded files": "फार मोठे, विभागता न येणारे परिच्छेद (उदा. सांकेतिक फाइल)",
    "paragraphs without a letter, such as separators": "एकही अक्षर नसलेले परिच्छेद (उदा. विभाजक)",
    "too many words with sequences that do not occur in Devanagari spelling": "देवनागरीत न येणाऱ्या अक्षरक्रमांचे फार शब्द",
    "Devanagari in a legacy font, stored as Latin letters": "जुन्या फॉन्टमधील, रोमन अक्षरांत साठवलेले देवनागरी",
    "mostly in a script that none of the languages to keep uses": "ठेवायच्या भाषांपैकी कोणाचीही नसलेली लिपी",
    "not in one of the languages to keep": "ठेवायच्या भाषांत नसलेला मजकूर",
    "the same characters many times in a row": "तीच अक्षरे सलग अनेक वेळा",
    "many repetitions of the same word sequences": "त्याच शब्दक्रमांची फार पुनरावृत्ती",
    "documents with too few letters": "फार कमी अक्षरे असलेले दस्तऐवज",
    "documents with too many digits": "फार अंक असलेले दस्तऐवज",
    "documents in which too few words have a letter": "अक्षर असलेले शब्द फार कमी असलेले दस्तऐवज",
    "documents of very short words": "फार छोट्या शब्दांचे दस्तऐवज",
    "text of very long words, such as web addresses": "फार लांब शब्दांचा मजकूर (उदा. वेब-पत्ते)",
    "documents with too few of the most common words of their language": "भाषेतील नेहमीचे शब्द फार कमी असलेले दस्तऐवज",
    "conversations without a question that has an answer": "उत्तर असलेला एकही प्रश्न नसलेले संवाद",
    "short lines that occur in many documents of a source, except the first occurrence": (
        "स्रोताच्या अनेक दस्तऐवजांत येणाऱ्या छोट्या ओळी (पहिली सोडून)"
    ),
    "in one document: paragraphs repeated directly, or long paragraphs that occur a third time": (
        "एकाच दस्तऐवजात लगेच पुन्हा आलेले किंवा तिसऱ्यांदा आलेले मोठे परिच्छेद"
    ),
    "lines that an earlier document has too": "आधीच्या दस्तऐवजातही असलेल्या ओळी",
    "exact copies of earlier documents and conversations": "आधीच्या दस्तऐवजांच्या आणि संवादांच्या हुबेहूब प्रती",
    "paragraphs, documents and conversations that are nearly the same as an earlier one": (
        "आधी आलेल्यांसारखेच जवळजवळ असलेले परिच्छेद, दस्तऐवज आणि संवाद"
    ),
    "shorter than nearly all other rows": "जवळजवळ सर्व ओळींपेक्षा छोटे",
    "longer than nearly all other rows": "जवळजवळ सर्व ओळींपेक्षा मोठे",
    "text of data.held_out": "data.held_out मधील मजकूर",
    "lines of validation text that also occur in training text, such as a refrain": "प्रशिक्षण मजकुरातही असलेल्या चाचणीच्या ओळी (उदा. ध्रुपद)",
    "copies of validation text, kept out of training": "चाचणी मजकुराच्या प्रती, प्रशिक्षणातून वगळल्या",
    "text that shares half of its word sequences with validation text, kept out of training": (
        "निम्मे शब्दक्रम चाचणी मजकुराशी जुळणारा मजकूर, प्रशिक्षणातून वगळला"
    ),
    "documents that the weights, shares and budgets of the mixture leave out": "मिश्रणाच्या प्रमाणांमुळे वगळलेले दस्तऐवज",
    # files that were not read
    "hidden": "लपवलेली",
    "a link to a file that does not exist": "नसलेल्या फाइलचा दुवा",
    "a link to a file outside of the folder, which is not followed": "फोल्डरबाहेरच्या फाइलचा दुवा, तो वाचला जात नाही",
    "read already": "आधीच वाचली",
    "cannot be read": "वाचता येत नाही",
    "the .zip is damaged": ".zip बिघडलेली आहे",
    "a .zip of {count} files; {most} are read at most": "{count} फाइलची .zip; जास्तीत जास्त {most} वाचल्या जातात",
    "a .zip inside a .zip": ".zip च्या आतील .zip",
    "a .zip without a file that is read": "वाचता येणारी एकही फाइल नसलेली .zip",
    "protected by a password": "पासवर्ड असलेली",
    "unpack it": ".zip मधून बाहेर काढावी लागेल",
    "rich text, which is not read": "रिच टेक्स्ट, वाचले जात नाही",
    "OpenDocument text, which is not read": "OpenDocument मजकूर, वाचला जात नाही",
    "a document of Word 97-2003, which is not read": "Word 97-2003 चा दस्तऐवज, वाचला जात नाही",
    "a document with macros, which is not read": "मॅक्रो असलेला दस्तऐवज, वाचला जात नाही",
    "a document of Pages, which is not read": "Pages चा दस्तऐवज, वाचला जात नाही",
    "a picture": "चित्र",
    "an archive of a kind that is not read": "न वाचल्या जाणाऱ्या प्रकारचे संकुलन",
    "sound or video": "आवाज किंवा व्हिडिओ",
    "slides": "स्लाइड",
    "a book in a format that is not read": "न वाचल्या जाणाऱ्या प्रकारचे पुस्तक",
    "a spreadsheet": "स्प्रेडशीट",
    "a database": "डेटाबेस",
    "TeX source, which is not read": "TeX, वाचले जात नाही",
    "an e-mail, which is not read": "ई-मेल, वाचली जात नाही",
    "e-mails, which are not read": "ई-मेल, वाचल्या जात नाहीत",
    "not of a kind that is read": "न वाचल्या जाणाऱ्या प्रकारची",
    "its name has no known extension": "नावाला ओळखीचा शेवट नाही",
    # kinds of text, and methods of augmentation
    "conversations": "संवाद",
    "documents": "दस्तऐवज",
    "paraphrase": "पुनर्लेखन",
    "back-translation": "उलट-भाषांतर",
    "paraphrase pairs": "पुनर्लेखन-जोड्या",
    "the model returned nothing, or only punctuation": "मॉडेलने काहीच दिले नाही, किंवा फक्त विरामचिन्हे दिली",
    "the same words as before": "तेच शब्द",
    "fewer letters in the script of the old sentence: another language, or partly untranslated": (
        "जुन्या वाक्याच्या लिपीतील अक्षरे कमी: दुसरी भाषा, किंवा अर्धवट भाषांतर"
    ),
    "the digits differ from those of the old sentence": "जुन्या वाक्यापेक्षा वेगळे अंक",
    "much shorter or much longer than the old sentence (augment.length_ratio)": (
        "जुन्या वाक्यापेक्षा फार छोटे किंवा फार मोठे (augment.length_ratio)"
    ),
    "shares too few letter sequences with the old sentence: probably has another meaning (augment.chrf)": (
        "जुन्या वाक्याशी फार कमी साम्य: बहुधा वेगळा अर्थ (augment.chrf)"
    ),
    "almost equal to the old sentence (augment.chrf)": "जुन्या वाक्यासारखेच जवळजवळ (augment.chrf)",
    "the model gave the same answer for another sentence": "दुसऱ्या वाक्यालाही मॉडेलने हेच उत्तर दिले",
    "equal or nearly equal to a sentence of the validation set, or with eight words in a row from it": (
        "चाचणीच्या वाक्यासारखे, किंवा त्यातील सलग आठ शब्द असलेले"
    ),
    # the training
    "end of schedule": "ठरलेल्या पायऱ्या पूर्ण झाल्या",
    "early stop": "सुधारणा थांबल्याने लवकर थांबले",
    "finished on request": "विनंतीवरून संपवले",
    "diverged": "लॉस पुन्हा पुन्हा वाढत राहिल्याने थांबले",
    # steps of auto_fix
    "as configured": "ठरवल्याप्रमाणे",
    "calibrate on {count} tokens": "{count} टोकनांवर कॅलिब्रेशन",
    "store {names} with 8 bits": "{names} 8 बिटांत साठवणे",
    "{count} steps of QAT": "QAT च्या {count} पायऱ्या",
    # what is not available, and why
    "invented words, copied passages and facts (data/train.jsonl is missing)": ("बनावट शब्द, नक्कल केलेले उतारे आणि तथ्ये (data/train.jsonl नाही)"),
    "the learning curves ({file} is missing)": "शिकण्याचे आलेख ({file} नाही)",
    "the learning curves ({file} has no training step)": "शिकण्याचे आलेख ({file} मध्ये प्रशिक्षणाची एकही पायरी नाही)",
    "{count} unreadable line of {file}": "{file} मधील {count} न वाचता येणारी ओळ",
    "{count} unreadable lines of {file}": "{file} मधील {count} न वाचता येणाऱ्या ओळी",
    "the effect of each matrix ({file} is missing)": "प्रत्येक मॅट्रिक्सचा परिणाम ({file} नाही)",
    "the counts of the cleaning rules ({file} is missing)": "शुद्धीकरणाच्या नियमांचे आकडे ({file} नाही)",
    "the statistics of the tokenizer ({file} is missing)": "टोकनायझरची आकडेवारी ({file} नाही)",
    "text {number}: all of it is in the training text": "मजकूर {number}: सगळा प्रशिक्षण मजकुरात आहे",
    "validation text": "चाचणी मजकूर",
    "text {number}": "मजकूर {number}",
    "It was trained on private messages: share the model only with people who may read them.": (
        "खाजगी संदेशांवर प्रशिक्षण दिले आहे: ते संदेश वाचू शकणाऱ्यांनाच हे मॉडेल द्या."
    ),
    "tokenizer.vocab_size {size} is more than this text can fill: take {smaller} or less, or add text": (
        "tokenizer.vocab_size {size} इतके टोकन या मजकुरात मिळत नाहीत: {smaller} किंवा कमी घ्या, किंवा मजकूर वाढवा"
    ),
}
